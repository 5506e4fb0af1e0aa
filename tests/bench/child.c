/* A child of exact timing, for `make bench`: speaks as mlx_lm.server does (HTTP/1.0, a connection per request,
 * SSE that ends with the connection, one keep-alive comment in prefill) and does no work of its own.
 *
 * It takes the server's command line, of which it reads --port. What to answer stands in the prompt:
 *
 *     [bench chunks=00016 pace_us=010000 tokens=00042]
 *
 * the number of events with text, the microseconds between them, and the prompt's tokens, which it reports as
 * its own count. A paced event's text is "@" and the nanoseconds of CLOCK_MONOTONIC at which it was written.
 * Otherwise it is four letters, never the same twice running (LiteLLM ends a stream that repeats itself). Unlike the server it sets TCP_NODELAY, so that no event waits for another's ACK. */

#define _GNU_SOURCE
#define _DARWIN_C_SOURCE
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { THREADS = 64, MOST = 8 << 20, ANSWER = 256 << 10 };

struct wish {
    long chunks, pace_us, tokens;
    int stream, usage, chat;
};

static long long now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static void sleep_until(long long due) {
    long long left = due - now_ns();
    if (left > 0) nanosleep(&(struct timespec){left / 1000000000, left % 1000000000}, NULL);
}

static int put(int fd, const char *data, size_t size) {
    while (size) {
        ssize_t sent = write(fd, data, size);
        if (sent <= 0) return 0;
        data += sent, size -= (size_t)sent;
    }
    return 1;
}

/* The whole request in `text`, ended by NUL; the offset of its body, 0 if there is none that is whole. */
static size_t read_request(int fd, char *text) {
    size_t size = 0, body = 0, length = 0;
    while (size < MOST) {
        ssize_t got = read(fd, text + size, MOST - size);
        if (got <= 0) return 0;
        size += (size_t)got;
        text[size] = 0;
        if (!body) {
            char *end = strstr(text, "\r\n\r\n"), *field = strcasestr(text, "\r\ncontent-length:");
            if (!end) continue;
            body = (size_t)(end + 4 - text);
            if (field && field < end) length = strtoul(field + 17, NULL, 10);
        }
        if (size >= body + length) return body;
    }
    return 0;
}

static struct wish wish_of(const char *text, const char *body) {
    struct wish wish = {1, 0, 1, 0, 0, strstr(text, "/chat/") != NULL && strstr(text, "/chat/") < body};
    const char *found = NULL;
    for (const char *next = body; (next = strstr(next, "[bench ")); next++) found = next; /* the last turn's */
    if (found) sscanf(found, "[bench chunks=%ld pace_us=%ld tokens=%ld]", &wish.chunks, &wish.pace_us, &wish.tokens);
    wish.stream = strstr(body, "\"stream\":true") || strstr(body, "\"stream\": true");
    wish.usage = strstr(body, "\"include_usage\":true") || strstr(body, "\"include_usage\": true");
    return wish;
}

static const char *const HEAD =
    "\"id\": \"chatcmpl-5a2c51f0-6e0b-4d1c-9c3a-0b8c7d1e2f30\", \"system_fingerprint\": \"0.32.2-0.32.4-Linux-cpu\", "
    "\"object\": \"%s\", \"model\": \"default_model\", \"created\": 1763800000";

static char *word(char *text, long number) {
    for (int i = 0; i < 4; i++, number /= 26) *text++ = (char)('a' + number % 26);
    *text = 0;
    return text;
}

static int put_event(int fd, const struct wish *wish, const char *text, const char *finish) {
    char event[1024], head[512], part[128];
    snprintf(head, sizeof head, HEAD, wish->chat ? "chat.completion.chunk" : "text_completion");
    const char *shape = !wish->chat ? "\"text\": \"%s\"" : *text ? "\"delta\": {\"role\": \"assistant\", \"content\": \"%s\"}"
                                                               : "\"delta\": {\"role\": \"assistant\"%s}";
    snprintf(part, sizeof part, shape, text);
    int size = snprintf(event, sizeof event, "data: {%s, \"choices\": [{\"index\": 0, \"finish_reason\": %s, %s}]}\n\n", head, finish, part);
    return put(fd, event, (size_t)size);
}

static void put_stream(int fd, const struct wish *wish) {
    char text[512], head[256];
    int size = snprintf(text, sizeof text, "HTTP/1.0 200 OK\r\nServer: BaseHTTP/0.6 Python/3.11\r\nContent-type: text/event-stream\r\n"
                        "Cache-Control: no-cache\r\n\r\n");
    if (!put(fd, text, (size_t)size)) return;
    size = snprintf(text, sizeof text, ": keepalive %ld/%ld\n\n", wish->tokens, wish->tokens);
    if (!put(fd, text, (size_t)size)) return;
    long long due = now_ns();
    for (long number = 0; number < wish->chunks; number++) {
        word(text, number);
        if (wish->pace_us) {
            sleep_until(due += wish->pace_us * 1000);
            snprintf(text, sizeof text, "@%015lld", now_ns());
        }
        if (!put_event(fd, wish, text, "null")) return;
    }
    put_event(fd, wish, "", "\"length\"");
    if (wish->usage) {
        snprintf(head, sizeof head, HEAD, "chat.completion");
        size = snprintf(text, sizeof text, "data: {%s, \"choices\": [], \"usage\": {\"prompt_tokens\": %ld, \"completion_tokens\": %ld, "
                        "\"total_tokens\": %ld}}\n\n", head, wish->tokens, wish->chunks, wish->tokens + wish->chunks);
        put(fd, text, (size_t)size);
    }
    put(fd, "data: [DONE]\n\n", 14);
}

static void put_whole(int fd, const struct wish *wish, char *answer) {
    char *end = answer + 256, head[256]; /* the header goes before, once the length is known */
    end += sprintf(end, "{") + sprintf(end + 1, HEAD, wish->chat ? "chat.completion" : "text_completion");
    end += sprintf(end, ", \"choices\": [{\"index\": 0, \"finish_reason\": \"length\", %s",
                   wish->chat ? "\"message\": {\"role\": \"assistant\", \"content\": \"" : "\"text\": \"");
    for (long number = 0; number < wish->chunks && end < answer + ANSWER - 512; number++) end = word(end, number);
    end += sprintf(end, "\"%s}], \"usage\": {\"prompt_tokens\": %ld, \"completion_tokens\": %ld, \"total_tokens\": %ld}}",
                   wish->chat ? "}" : "", wish->tokens, wish->chunks, wish->tokens + wish->chunks);
    int size = sprintf(head, "HTTP/1.0 200 OK\r\nServer: BaseHTTP/0.6 Python/3.11\r\nContent-type: application/json\r\n"
                       "Content-Length: %zu\r\n\r\n", (size_t)(end - answer - 256));
    memcpy(answer + 256 - size, head, (size_t)size);
    put(fd, answer + 256 - size, (size_t)(end - answer - 256 + size));
}

static void *serve(void *argument) {
    int listener = *(int *)argument, yes = 1;
    char *text = malloc(MOST + 1), *answer = malloc(ANSWER);
    for (;;) {
        int fd = accept(listener, NULL, NULL);
        if (fd < 0) continue;
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
        size_t body = read_request(fd, text);
        if (body && !strncmp(text, "GET /health", 11)) {
            const char *ok = "HTTP/1.0 200 OK\r\nContent-type: application/json\r\n\r\n{\"status\": \"ok\"}";
            put(fd, ok, strlen(ok));
        } else if (body) {
            struct wish wish = wish_of(text, text + body);
            if (wish.stream) put_stream(fd, &wish);
            else put_whole(fd, &wish, answer);
        }
        close(fd);
    }
    return NULL;
}

int main(int argc, char **argv) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int listener = socket(AF_INET, SOCK_STREAM, 0), yes = 1;
    for (int i = 1; i < argc; i++) {
        if (!strcmp(argv[i], "--help")) return puts("usage: child [--port PORT]") < 0;
        if (!strcmp(argv[i], "--port") && i + 1 < argc) address.sin_port = htons((unsigned short)atoi(argv[i + 1]));
    }
    signal(SIGPIPE, SIG_IGN);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
    if (bind(listener, (struct sockaddr *)&address, sizeof address) || listen(listener, 512)) return perror("listen"), 1;
    pthread_t thread;
    for (int i = 0; i < THREADS; i++)
        if (pthread_create(&thread, NULL, serve, &listener)) return perror("thread"), 1;
    pthread_join(thread, NULL);
    return 0;
}

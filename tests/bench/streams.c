/* A client that reads streams and tells when what came, for `make bench`. It prints times in nanoseconds.
 *
 *     streams read PORT COUNT < REQUEST    COUNT connections at once, each sending REQUEST (whole, with its head):
 *                                          "first N" and "last N" from connecting to the first event and to [DONE]
 *                                          for each, and "chunk N" from writing to reading for each "@" of child.c
 *     streams ping PORT EVERY_US COUNT < REQUEST   one connection, a request every EVERY_US: "ping N" from when it
 *                                          was due to its answer, so that one that is late makes those behind it late
 */

#define _GNU_SOURCE
#define _DARWIN_C_SOURCE
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { MOST = 8 << 20, BUFFER = 1 << 16, CHUNKS = 1 << 16 };

static char request[MOST];
static size_t request_size;
static unsigned short port;

struct seen {
    long long first, last, chunks[CHUNKS];
    int count;
};

static long long now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static void fail(const char *what) {
    perror(what);
    exit(1);
}

static int connected(void) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM, 0), yes = 1;
    if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof address)) fail("connect");
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
    return fd;
}

static void ask(int fd) {
    for (size_t at = 0; at < request_size;) {
        ssize_t sent = write(fd, request + at, request_size - at);
        if (sent <= 0) fail("write");
        at += (size_t)sent;
    }
}

/* What of `text` was read at `now`; returns how many bytes at its end may belong to something that goes on. */
static size_t take(struct seen *seen, const char *text, size_t size, long long now) {
    const char *at = text, *end = text + size, *mark;
    if (!seen->first && memmem(text, size, "data: ", 6)) seen->first = now;
    while ((mark = memchr(at, '@', (size_t)(end - at))) && end - mark > 16) {
        if (seen->count < CHUNKS) seen->chunks[seen->count++] = now - strtoll(mark + 1, NULL, 10);
        at = mark + 1;
    }
    if (memmem(text, size, "data: [DONE]", 12)) seen->last = now;
    size_t rest = (size_t)(end - at);
    return mark ? (size_t)(end - mark) : rest < 16 ? rest : 16;
}

static void *read_stream(void *argument) {
    struct seen *seen = argument;
    char buffer[BUFFER + 1];
    long long began = now_ns();
    int fd = connected();
    size_t kept = 0;
    ask(fd);
    while (!seen->last) {
        ssize_t got = read(fd, buffer + kept, BUFFER - kept);
        if (got <= 0) fail("answer without [DONE]");
        buffer[kept + (size_t)got] = 0;
        size_t size = kept + (size_t)got;
        kept = take(seen, buffer, size, now_ns());
        memmove(buffer, buffer + size - kept, kept);
    }
    close(fd);
    seen->first -= began, seen->last -= began;
    return NULL;
}

static void read_streams(int count) {
    struct seen *all = calloc((size_t)count, sizeof *all);
    pthread_t *threads = calloc((size_t)count, sizeof *threads);
    for (int i = 0; i < count; i++)
        if (pthread_create(&threads[i], NULL, read_stream, &all[i])) fail("thread");
    for (int i = 0; i < count; i++) {
        pthread_join(threads[i], NULL);
        printf("first %lld\nlast %lld\n", all[i].first, all[i].last);
        for (int j = 0; j < all[i].count; j++) printf("chunk %lld\n", all[i].chunks[j]);
    }
}

static void ping(long every_us, long count) {
    char buffer[BUFFER + 1];
    int fd = connected();
    long long due = now_ns();
    for (long i = 0; i < count; i++) {
        due += every_us * 1000;
        long long left = due - now_ns();
        if (left > 0) nanosleep(&(struct timespec){left / 1000000000, left % 1000000000}, NULL);
        ask(fd);
        size_t size = 0;
        do {
            ssize_t got = read(fd, buffer + size, BUFFER - size);
            if (got <= 0) fail("ping");
            size += (size_t)got;
            buffer[size] = 0;
        } while (buffer[size - 1] != '}'); /* the answer is one small JSON object */
        printf("ping %lld\n", now_ns() - due);
    }
}

int main(int argc, char **argv) {
    if (argc < 4) return fprintf(stderr, "usage: streams read PORT COUNT | streams ping PORT EVERY_US COUNT\n"), 2;
    port = (unsigned short)atoi(argv[2]);
    request_size = fread(request, 1, sizeof request, stdin);
    if (!strcmp(argv[1], "read")) read_streams(atoi(argv[3]));
    else ping(atol(argv[3]), argc > 4 ? atol(argv[4]) : 1);
    return 0;
}

"""Pure. Turns the bytes of a request body into a typed `CompletionRequest`, or refuses it naming the field.

mlx_lm.server trusts its input: one odd field kills its generation thread, another makes it load a model or
fetch a URL. This package decides what may reach it. `proxy.api.completions` calls, in this order:

1. `parse.parse_chat` or `parse.parse_text` with the body and the `Bounds` of the model that is served. They
   mend odd items first (`mend`, `mend_tools`, counted in `mends`), then check each part strictly: `messages`,
   `images`, `sampling`, `allowlist`.
2. `ModelNames.check` with the model name of the request.
3. `CompletionRequest.bounded`, if the vocabulary was not known when the body was parsed.
4. `CompletionRequest.with_images`, once `proxy.http.image_fetch` has fetched its remote images.
5. `CompletionRequest.adapted` to the `TemplateTraits` of the model: `adapt` writes what its chat template
   refuses or loses in a form that it takes.
6. `CompletionRequest.upstream_body`, once `proxy.prompt.fit` has made the prompt fit.

Invariants:

- The child's body is built anew from checked fields. No field of the client passes by default, and the model
  name is always `CHILD_MODEL`, so that the child never loads another one.
- What the bare server answers is answered, except for the refusals that docs/security.md lists. No mend is
  silent, and none depends on the end of a conversation: a growing session keeps its prefix.
- A field whose meaning is clear is normalized (nulls, `developer`, integers as floats); a field that cannot
  be served is refused. Fields without a meaning here are dropped, and their names are reported.
- Error texts name the field and the allowed values. They never repeat what was sent.
- Checks are linear in the body and not recursive over unbounded depth: bodies are megabytes, they arrive
  again every turn, and the checks run on the event loop.

It imports `proxy.errors`, orjson and pure parts of the standard library only: no I/O, no clock, no logging.
"""

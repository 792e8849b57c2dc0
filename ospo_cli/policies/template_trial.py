"""Renders a chat template in a process of its own that may take so much time and memory: a template is a program of somebody else's.

Imports nothing of this package, so that it can be run as a file. Input: JSON of the template, of lists of messages, and of the seconds.
"""

from __future__ import annotations

import contextlib
import json
import sys

# Of the processor, and of address space: what a template of thousands of lines takes is far below both.
SECONDS, BYTES = 10, 1 << 30


def main() -> None:
    """Render each list of messages; the exit status is 0 also where the template raises, which its reader finds out and says."""
    import resource

    from jinja2.ext import Extension
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """The block of transformers that marks what an assistant said."""

        tags = {"generation"}  # noqa: RUF012  (as its base class declares it)

        def parse(self, parser):  # type: ignore[no-untyped-def]
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    given = json.load(sys.stdin)
    resource.setrlimit(resource.RLIMIT_CPU, (given["seconds"], given["seconds"]))
    resource.setrlimit(resource.RLIMIT_AS, (BYTES, BYTES))
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, "jinja2.ext.loopcontrols"])
    environment.filters["tojson"] = lambda value, **_: json.dumps(value)  # as that of transformers, it takes any option
    for messages in given["conversations"]:
        with contextlib.suppress(Exception):
            try:
                environment.from_string(given["template"]).render(messages=messages, add_generation_prompt=True, **given["further"])
            except MemoryError:
                sys.exit("memory")


if __name__ == "__main__":
    main()

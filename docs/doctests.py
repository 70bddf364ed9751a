"""griffe extension: examples in docstrings (`>>>`) become code blocks of the API pages."""

import re
import textwrap

import griffe

EXAMPLE = re.compile(r"^ *>>>.*(?:\n(?=.*\S).*)*", re.MULTILINE)


class Doctests(griffe.Extension):
    """Fences each example, up to the next blank line, where Markdown would see nested quotes."""

    def on_object(self, *, obj: griffe.Object, **kwargs) -> None:
        if obj.docstring:
            obj.docstring.value = EXAMPLE.sub(
                lambda found: f"\n```pycon\n{textwrap.dedent(found[0])}\n```\n", obj.docstring.value
            )

"""The seed's `htmlspecialchars`, for clients that insert what they get into a page: `--escape-html`.

Applied to what is delivered (pushes, replayed and asked-for history), never to what is stored, so that nothing is
escaped twice and clients that need the raw text can have it by leaving the option off.
"""

from __future__ import annotations

import html
from typing import Any

from tuskws_fast.protocol import codec


def escape_body(body: bytes) -> bytes:
    """The push or reply with every string inside its `message`, and in those of its `messages`, escaped."""
    value: dict[str, Any] = codec.decode(body)
    if "message" in value and value.get("type") != "error":
        value["message"] = _escaped(value["message"])
    for entry in value.get("messages", ()):
        if "message" in entry:
            entry["message"] = _escaped(entry["message"])
    return codec.encode(value)


def _escaped(value: object) -> object:
    if isinstance(value, str):
        return html.escape(value, quote=True)
    if isinstance(value, list):
        return [_escaped(item) for item in value]
    if isinstance(value, dict):
        return {key: _escaped(item) for key, item in value.items()}
    return value

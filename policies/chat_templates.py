"""Chat templates of others are programs: before one is used, it is tried in a process with little time and memory.

transformers runs them in a sandbox without files, imports or network, but a loop without end or a text of gigabytes is
within its rules.
"""

from __future__ import annotations

import json
import subprocess
import sys
from functools import cache
from typing import Any

from carm_env.chat_models.interface import ModelError

_MAX_CHARACTERS = 256 << 10
_MAX_PROMPT_CHARACTERS = 1 << 20
_CPU_SECONDS, _MEMORY_BYTES, _LONGEST_WAIT_S = 2, 1 << 30, 120
_TEXT = {"type": "text", "text": "Which landmark is this?"}
_USER, _ANSWER = {"role": "user", "content": [{"type": "image"}, _TEXT]}, {"role": "assistant", "content": [_TEXT]}
_SYSTEM = {"role": "system", "content": [_TEXT]}
_CONVERSATIONS = [[_SYSTEM, _USER], [_SYSTEM, _USER, _ANSWER, _USER]]
_CHILD = """
import json, sys
from transformers.utils.chat_template_utils import render_jinja_template
given = json.load(sys.stdin)
try:
    import resource
    used = resource.getrusage(resource.RUSAGE_SELF)
    seconds = int(used.ru_utime + used.ru_stime) + given["seconds"]
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    if sys.platform == "linux":
        pages = int(open("/proc/self/statm").read().split()[0])
        limit = pages * resource.getpagesize() + given["bytes"]
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
except (ImportError, OSError, ValueError):
    pass
for conversation in given["conversations"]:
    found = render_jinja_template([conversation], chat_template=given["template"], add_generation_prompt=True,
                                  **given["tokens"])
    prompt = found[0][0] if isinstance(found, tuple) else found[0]
    if len(prompt) > given["characters"]:
        raise SystemExit(f"its prompt has {len(prompt):,} characters")
"""


def check_chat_template(processor: Any, name: str) -> None:
    """Renders two short conversations with the chat template of a processor, in a process of its own.

    Raises:
        ModelError: the template is too long, fails, or takes too much time, memory or text.
    """
    from policies.embedded_vlm import CHAT_TEMPLATE

    template = getattr(processor, "chat_template", None) or processor.tokenizer.chat_template
    if isinstance(template, dict):
        template = template.get("default", "")
    if template == CHAT_TEMPLATE:
        return
    if not isinstance(template, str) or len(template) > _MAX_CHARACTERS:
        raise ModelError(f"{name}: expected a chat template of at most {_MAX_CHARACTERS:,} characters.")
    tokens = {key: value for key, value in processor.tokenizer.special_tokens_map.items() if isinstance(value, str)}
    if reason := _fault(template, json.dumps(tokens)):
        raise ModelError(
            f"{name}: its chat template cannot be used ({reason}): take the template of the original model."
        )


@cache
def _fault(template: str, tokens: str) -> str:
    """Returns why a template cannot be used, or an empty text."""
    given = {"template": template, "tokens": json.loads(tokens), "conversations": _CONVERSATIONS,
             "seconds": _CPU_SECONDS, "bytes": _MEMORY_BYTES, "characters": _MAX_PROMPT_CHARACTERS}  # fmt: skip
    try:
        done = subprocess.run(
            [sys.executable, "-c", _CHILD], input=json.dumps(given), capture_output=True, text=True,
            timeout=_LONGEST_WAIT_S, check=False,
            encoding="utf-8",
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return f"it takes more than {_LONGEST_WAIT_S} seconds"
    if done.returncode == 0:
        return ""
    if done.returncode < 0:
        return f"it takes more than {_CPU_SECONDS} seconds or {_MEMORY_BYTES:,} bytes"
    return (done.stderr.strip().splitlines() or ["it fails"])[-1][:200]

"""HTML pages of transcripts: one for each episode, and a list of the episodes.

A page is one file without scripts and without links to other sites. Everything that a policy, a model or a transcript
of others says is escaped, and a content security policy forbids scripts besides.
"""

from __future__ import annotations

import base64
import html
import io
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from string import Template
from typing import Any
from urllib.parse import quote

from PIL import Image

from carm_env.actions import Move
from carm_env.evaluation.episode_images import describe_move
from carm_env.landmarks import N_LANDMARKS, landmark
from carm_env.transcripts.read import Transcript
from carm_env.transcripts.records import AnswerLine, FeedbackLine, ResetLine, TranscriptError

PAGE_MARK = '<meta name="generator" content="carm-env replay">'
"""Line by which a page of ours is recognised, so that no other file is replaced."""
EPISODE_PAGE = "index.html"
_MANY_BARS = 24
# Control characters, and characters that change the order of others.
_INVISIBLE = re.compile("[\0-\b\x0b-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]")
_TEMPLATE = Path(__file__).with_suffix(".html")


def shown(value: object) -> str:
    r"""Returns a text as HTML: escaped, and with a visible name for every invisible character.

    >>> shown("<b>\x07")
    '&lt;b&gt;<span class="character">U+0007</span>'
    """
    escaped = html.escape(str(value).replace("\r\n", "\n"))
    return _INVISIBLE.sub(lambda found: f'<span class="character">U+{ord(found[0]):04X}</span>', escaped)


def outcome(transcript: Transcript) -> str:
    """Returns the outcome of an episode; ``unfinished`` if it has no end."""
    if transcript.end is None:
        return "unfinished"
    return transcript.end.outcome or "ended"


def target_name(transcript: Transcript) -> str:
    """Returns the name of the target, or ``unknown target``; if a clinician changed it, the names of all, in order."""
    ids = [line.target for line in (transcript.start, *transcript.answers)]
    names = [landmark(key).name for key, before in zip(ids, [0, *ids], strict=False) if key and key != before]
    return ", then ".join(names) or "unknown target"


def describe_answer(answer: AnswerLine) -> str:
    """Returns what an answer did, in a few words."""
    if answer.abstained:
        return "abstained"
    if answer.action is None:
        return f"invalid answer ({answer.fault})" if answer.fault else "no move"
    if not (move := Move.from_index(answer.action)).is_aligned:
        return describe_move(move)
    return f"aligned, {'within' if answer.success else 'outside'} the tolerance"


def episode_page(transcript: Transcript, animation: str = "", back: str = "") -> str:
    """Returns the page of an episode.

    Args:
        transcript: the transcript.
        animation: file name of its GIF; empty if there is none.
        back: address of the list of episodes; empty if there is none.
    """
    start = transcript.start
    title = f"{start.policy or 'Chat'}: {target_name(transcript)}"
    links = [(back, "All episodes")] * bool(back) + [(animation, "Animation (GIF)")] * bool(animation)
    problems = list(transcript.problems)
    steps = "".join(_events(transcript, problems))
    body = [
        f'<div class="top"><h1>{shown(title)}</h1>{_badge(transcript)}</div>',
        f'<p class="links">{" · ".join(_link(*link) for link in links)}</p>' if links else "",
        f'<section class="card">{_facts(_summary(transcript))}</section>',
        _distances(transcript),
        _system_prompts(transcript),
        steps,
        _end(transcript),
        _problems(problems),
    ]
    return _page(title, body)


def list_page(transcripts: Sequence[Transcript], addresses: Sequence[str], refused: Sequence[str] = ()) -> str:
    """Returns the page that lists episodes.

    Args:
        transcripts: their transcripts.
        addresses: address of the page of each.
        refused: a sentence for each transcript that could not be read.
    """
    groups: dict[tuple[str, str], list[Transcript]] = {}
    for transcript in transcripts:
        groups.setdefault((transcript.start.policy, transcript.start.suite), []).append(transcript)
    rows = [_table_row(transcript, address) for transcript, address in zip(transcripts, addresses, strict=True)]
    body = [
        '<div class="top"><h1>Transcripts</h1></div>',
        '<section class="card scroll"><table>',
        _row("th", [*_GROUP_HEADINGS], _GROUP_CLASSES),
        *(_row("td", _group_cells(*key, group), _GROUP_CLASSES) for key, group in groups.items()),
        "</table></section>",
        '<section class="card scroll"><table>',
        _row("th", [*_EPISODE_HEADINGS], _EPISODE_CLASSES),
        *rows,
        "</table></section>",
        _problems([*refused, *(problem for transcript in transcripts for problem in transcript.problems)]),
    ]
    return _page("Transcripts", body)


_GROUP_HEADINGS = ("policy", "suite", "success", "answers", "invalid", "tokens", "cost")
_GROUP_CLASSES = ("", "", "number", "number wide", "number", "number wide", "number wide")
_EPISODE_HEADINGS = ("episode", "outcome", "target", "patient", "answers", "invalid", "X-rays", "final mm")
_EPISODE_CLASSES = ("", "", "", "wide", "number wide", "number wide", "number wide", "number wide")


def _group_cells(policy: str, suite: str, group: Sequence[Transcript]) -> list[str]:
    answers = [answer for transcript in group for answer in transcript.answers]
    successes = sum(transcript.end is not None and transcript.end.success for transcript in group)
    return [
        shown(policy or "chat"),
        shown(suite or "-"),
        f"{successes} of {len(group)}",
        f"{len(answers):,}",
        f"{sum(bool(answer.fault) for answer in answers):,}",
        _total(answers, "tokens", "{:,}") or "-",
        _total(answers, "cost", "{:.4f}") or "-",
    ]


def _table_row(transcript: Transcript, address: str) -> str:
    start, answers = transcript.start, transcript.answers
    last = answers[-1] if answers else start
    name = f"{start.policy or 'chat'} {start.suite} {start.episode}"
    cells = [
        _link(address, name),
        _badge(transcript),
        shown(target_name(transcript)),
        shown(start.patient),
        str(len(answers)),
        str(sum(bool(answer.fault) for answer in answers)),
        str(last.exposures),
        _mm(last.distance_mm),
    ]
    return _row("td", cells, _EPISODE_CLASSES)


def _row(tag: str, cells: Sequence[str], classes: Sequence[str]) -> str:
    parts = (f'<{tag} class="{name}">{cell}</{tag}>' for cell, name in zip(cells, classes, strict=True))
    return f"<tr>{''.join(parts)}</tr>"


def _page(title: str, body: Iterable[str]) -> str:
    template = Template(_TEMPLATE.read_text(encoding="utf-8"))
    return template.substitute(title=shown(title), body="\n".join(part for part in body if part))


def _link(address: str, text: str) -> str:
    return f'<a href="{html.escape(quote(address))}">{shown(text)}</a>'


def _badge(transcript: Transcript) -> str:
    name = outcome(transcript)
    kind = name if name.isalpha() and name.isascii() else ""
    return f'<span class="badge {kind}">{shown(name)}</span>'


def _mm(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f}"


def _total(answers: Sequence[AnswerLine], name: str, form: str) -> str:
    values = [getattr(answer, name) for answer in answers if getattr(answer, name) is not None]
    return form.format(sum(values)) if values else ""


def _summary(transcript: Transcript) -> dict[str, str]:
    """Returns the facts at the head of a page; empty ones are left out."""
    start, answers = transcript.start, transcript.answers
    last = answers[-1] if answers else start
    return {
        "Patient": start.patient,
        "Target": target_name(transcript),
        "Suite": f"{start.suite} {start.suite_version}, episode {start.episode}" if start.suite else "",
        "Seed": "" if start.seed is None else str(start.seed),
        "Distance": f"{_mm(start.distance_mm)} mm to {_mm(last.distance_mm)} mm",
        "Answers": f"{len(answers)} of {start.max_steps}" if start.max_steps else str(len(answers)),
        "Invalid answers": str(sum(bool(answer.fault) for answer in answers)),
        "X-rays": str(last.exposures),
        "Dose": "" if last.dose_mgy is None else f"{last.dose_mgy:.2f} mGy",
        "Model": ", ".join(sorted({answer.model for answer in answers if answer.model})),
        "Prompt tokens": _total(answers, "prompt_tokens", "{:,}"),
        "Answer tokens": _total(answers, "tokens", "{:,}"),
        "Time of the model": _total(answers, "seconds", "{:.1f} s"),
        "Cost": _total(answers, "cost", "{:.4f}"),
        "Prompts": start.prompts,
        "True state read": ", ".join(start.privileged_info),
    }


def _facts(facts: dict[str, str]) -> str:
    cells = (f"<div><dt>{shown(name)}</dt><dd>{shown(value)}</dd></div>" for name, value in facts.items() if value)
    return f'<dl class="facts">{"".join(cells)}</dl>'


def _distances(transcript: Transcript) -> str:
    """Returns bars of the distance to the target at the start and after every answer."""
    states = [transcript.start, *transcript.answers]
    distances = [state.distance_mm for state in states if state.distance_mm is not None]
    largest = max(distances, default=0.0)
    if not 0 < largest < 1e6:
        return ""
    bars = (
        f'<li><span>{value:.0f}</span><i style="height:{75 * value / largest:.1f}%"></i></li>' for value in distances
    )
    many = " many" if len(distances) > _MANY_BARS else ""
    return (
        '<section class="card"><h2>Distance to the target after each answer, mm</h2>'
        f'<ol class="bars{many}">{"".join(bars)}</ol></section>'
    )


def _system_prompts(transcript: Transcript) -> str:
    """Returns each different system prompt once."""
    prompts = dict.fromkeys(
        _text_of(transcript, message)
        for answer in transcript.answers
        for message in answer.messages
        if message["role"] == "system"
    )
    return "".join(
        f'<details class="card"><summary>System prompt</summary><pre>{shown(text)}</pre></details>' for text in prompts
    )


def _text_of(transcript: Transcript, message: dict[str, Any]) -> str:
    missing = "[a text that is missing in the transcript]"
    parts = [transcript.texts.get(part["text"], missing) for part in message["content"] if "text" in part]
    return "\n".join(parts)


def _events(transcript: Transcript, problems: list[str]) -> Iterable[str]:
    before: ResetLine | AnswerLine = transcript.start
    for event in transcript.events:
        if isinstance(event, FeedbackLine):
            yield f'<section class="card">{_turn("feedback", "Feedback of the clinician", event.text)}</section>'
        else:
            yield _step(transcript, before, event, problems)
            before = event
    if isinstance(before, AnswerLine) and before.next_image != before.image:
        figure = _figure(transcript, before.next_image, before, problems)
        heading = "<h2>X-ray after the last answer</h2>"
        yield f'<section class="card step">{figure}<div class="said">{heading}</div></section>'


def _step(transcript: Transcript, before: ResetLine | AnswerLine, answer: AnswerLine, problems: list[str]) -> str:
    turns = [message for message in answer.messages if message["role"] != "system"]
    parts = [f"<h2>Step {answer.step}</h2>"]
    if earlier := turns[:-1]:
        kept = "".join(_turn("", message["role"], _text_of(transcript, message)) for message in earlier)
        parts.append(
            f"<details><summary>{len(earlier)} earlier turns in the context</summary><div>{kept}</div></details>"
        )
    if turns:
        parts.append(_turn("", "Prompt", _text_of(transcript, turns[-1])))
    if turns or answer.text:
        parts.append(_turn("answer", "Answer", answer.text or "(empty)"))
    elif answer.rationale:
        parts.append(_turn("answer", "Rationale", answer.rationale))
    if answer.stage:
        parts.append(_turn("", f"Stage: {answer.stage}", "\n".join(_stage_lines(answer))))
    if answer.fault:
        parts.append(_turn("fault", f"Invalid answer: {answer.fault}", answer.message))
    else:
        parts.append(f'<p class="move">{shown(describe_answer(answer))}</p>')
    parts.append(f'<p class="meta">{shown(" · ".join(_details(answer)))}</p>')
    figure = _figure(transcript, answer.image, before, problems)
    return f'<section class="card step">{figure}<div class="said">{"".join(parts)}</div></section>'


def _stage_lines(answer: AnswerLine) -> list[str]:
    cutoff = "no cutoff" if answer.cutoff is None else f"cutoff {answer.cutoff:.4g}"
    candidates = [f"{one.get('probability')}: {one.get('answer')}" for one in answer.candidates]
    return [*candidates, cutoff, *filter(None, [answer.decision])]


def _details(answer: AnswerLine) -> list[str]:
    names = [landmark(key).name for key in answer.closest_landmarks if 1 <= key <= N_LANDMARKS]
    values: list[tuple[Any, Callable[[Any], str]]] = [
        (answer.distance_mm, lambda value: f"afterwards {value:.0f} mm from the target"),
        (names or None, lambda value: f"closest: {', '.join(value)}"),
        (answer.confidence, lambda value: f"confidence {value:.2f}"),
        (answer.lenient or None, lambda _: "read leniently"),
        (answer.reward, lambda value: f"reward {value:.2f}"),
        (answer.prompt_tokens, lambda value: f"{value:,} prompt tokens"),
        (answer.tokens, lambda value: f"{value:,} tokens"),
        (answer.seconds if answer.seconds is not None else answer.latency_s, lambda value: f"{value:.2f} s"),
        (answer.cost, lambda value: f"cost {value:.4f}"),
    ]
    return [describe(value) for value, describe in values if value is not None]


def _turn(kind: str, who: str, text: str) -> str:
    return f'<div class="turn {kind}"><span class="who">{shown(who)}</span><pre>{shown(text)}</pre></div>'


def _figure(transcript: Transcript, name: str, state: ResetLine | AnswerLine, problems: list[str]) -> str:
    caption = [f"X-ray {state.exposures}"]
    if len(state.isocenter_lps_mm) == 3:
        x, _, z = state.isocenter_lps_mm
        caption.append(f"x {x:.0f} mm, z {z:.0f} mm")
    if state.distance_mm is not None:
        caption.append(f"{state.distance_mm:.0f} mm from the target")
    text = shown(" · ".join(caption))
    try:
        image = transcript.image(name)
    except TranscriptError as error:
        problems.append(str(error))
        return f"<figure><figcaption>The image is missing. {text}</figcaption></figure>"
    file = io.BytesIO()
    Image.fromarray(image).save(file, format="PNG")
    data = base64.b64encode(file.getvalue()).decode()
    return (
        f'<figure><div class="xray"><img alt="{text}" width="{image.shape[1]}" height="{image.shape[0]}" '
        f'src="data:image/png;base64,{data}"><i class="across"></i><i class="down"></i><b class="right">R</b>'
        f'<b class="left">L</b></div><figcaption>{text}</figcaption></figure>'
    )


def _end(transcript: Transcript) -> str:
    if transcript.end is None:
        sentence = "The episode has not ended: the run was interrupted, or still goes on."
        return f'<section class="card"><p class="meta">{sentence}</p></section>'
    if not transcript.end.error:
        return ""
    return f'<section class="card">{_turn("fault", "The policy crashed", transcript.end.error)}</section>'


def _problems(problems: Sequence[str]) -> str:
    if not problems:
        return ""
    items = "".join(f"<li>{shown(problem)}</li>" for problem in problems)
    return f'<section class="card"><h2>Damaged parts of the transcript</h2><ul class="problems">{items}</ul></section>'

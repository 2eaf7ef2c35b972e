"""Routers by name: a model, a folder of cards and a file of cutoffs."""

from __future__ import annotations

from pathlib import Path

from carm_env.chat_models.top_two import TopTwoModel
from policies.checkpoint import SHIPPED
from policies.routing.cards import CARDS, read_repository
from policies.routing.cutoffs import SHIPPED_MODEL, Cutoffs, read_cutoffs
from policies.routing.local_top_two import KIND, make_top_two_model
from policies.routing.router import Router

SHIPPED_CUTOFFS = SHIPPED / KIND / "cutoffs.json"
"""Cutoffs of the model that ships with the cards that ship."""
NO_CUTOFFS = "none"


def load_router(
    model: str | Path | TopTwoModel = "",
    cards: str | Path = "",
    cutoffs: str | Path = "",
    ask_for_two: bool = False,
) -> Router:
    """Loads a router.

    Args:
        model: see `policies.routing.local_top_two.make_top_two_model`; by default the model that ships.
        cards: folder of model cards; by default those of this repository.
        cutoffs: file of `training/cutoffs.py`, or ``none`` for the baseline that always takes the first answer; by
            default the cutoffs that ship, if model and cards are those that ship, and otherwise none.
        ask_for_two: see `make_top_two_model`.

    Raises:
        FileNotFoundError: a file or folder does not exist.
        CardError: a card is invalid, or the model was trained on other cards.
        CutoffsError: the cutoffs are damaged, or belong to another repository of cards or to another model.
        ModelError: the model cannot be used.
    """
    repository = read_repository(Path(cards) if cards else CARDS)
    name = (str(model) or SHIPPED_MODEL) if isinstance(model, (str, Path)) else ""
    found = None
    if str(cutoffs) not in ("", NO_CUTOFFS):
        found = read_cutoffs(Path(cutoffs), repository.fingerprint, name)
    elif not cutoffs and not model and not cards and SHIPPED_CUTOFFS.is_file():
        found = read_cutoffs(SHIPPED_CUTOFFS, repository.fingerprint, name)
    return Router(make_top_two_model(model, ask_for_two), repository, found or Cutoffs())

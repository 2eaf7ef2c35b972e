"""Check the figures on the model cards against the result files, or fill them in.

    python benchmarks/model_cards.py
    python benchmarks/model_cards.py --write

Each figure on a card of `policies/cards` names the result file and the keys that it is read from. Without ``--write``
the exit status is 1 if a card disagrees with its result files.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from carm_env.system.command_line import run_script
from carm_env.system.files import write_text
from carm_env.system.structured_files import dump_yaml
from policies.routing.cards import CARDS, card_values, read_card_files, read_repository
from policies.routing.figures import REPOSITORY, differences, filled


@dataclass(frozen=True)
class Arguments:
    """Arguments of this script.

    Attributes:
        cards: folder of the cards; one card per file to write.
        root: folder that the paths on the cards start from.
        write: write the figures of the result files into the cards.
    """

    cards: Path = CARDS
    root: Path = REPOSITORY
    write: bool = False


def run(arguments: Arguments) -> int:
    """Prints the differences, or writes the cards."""
    repository = read_repository(arguments.cards)
    if not arguments.write:
        found = differences(repository.cards, arguments.root)
        print("\n".join(found) or f"{len(repository.cards)} cards agree with their result files.")
        return int(bool(found))
    # All cards are read and filled in before the first one is written.
    cards = {path: filled(card, arguments.root) for path, card in read_card_files(arguments.cards).items()}
    for path, card in cards.items():
        write_text(path, dump_yaml(card_values(card), width=120, allow_unicode=True))
        print(f"{path.name}: {len(card.eval_results)} figures")
    return 0


if __name__ == "__main__":
    sys.exit(run_script(run, Arguments, __doc__))

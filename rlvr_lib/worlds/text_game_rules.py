"""Rules and worked examples of the embedded games, in the form that the paper's full prompt needs (spec A.3, A.4).

The public games come with human-written rules. Ours are put together from the engine: the kinds of objects with their
properties, what the laws and the verbs say of themselves, and how the score counts. The two examples are from a layout
that no split reaches; unlike the public ones they are from a game that is also trained on.
"""

from collections.abc import Iterable

from rlvr_lib.worlds.bytesized32 import Rules
from rlvr_lib.worlds.text_crawl import crawl, layout_seed, start
from rlvr_lib.worlds.text_engine import Game
from rlvr_lib.worlds.text_games import GAMES
from rlvr_lib.worlds.transitions import TextTransition

EXAMPLE_GAME = "do-laundry"
EXAMPLE_LAYOUT = layout_seed("train", 1_000_000)  # far beyond the layouts of any split
KIND_LAYOUTS = 12  # layouts looked at for the kinds of objects of a game


def embedded_rules() -> dict[str, Rules]:
    """Rules of every embedded game by name."""
    return {name: game_rules(game) for name, game in GAMES.items()}


def game_rules(game: Game) -> Rules:
    """Rules of one game: its kinds of objects and its laws, its verbs, and how the score counts."""
    kinds = [f"Object: {kind}\nProperties: {', '.join(keys) or 'none'}" for kind, keys in _kinds(game).items()]
    laws = [f"Tick rule ({law.name}): {law.rule}" for law in game.laws]
    verbs = [f"{_call(verb.template)}: {verb.rule}" for verb in game.verbs]
    score = "The score counts the goals that hold. The game is won, and over, when all of them hold."
    return Rules("\n\n".join([*kinds, *laws]), "\n".join(verbs), score)


def _kinds(game: Game) -> dict[str, list[str]]:
    """Property names by type, over a few layouts."""
    found: dict[str, list[str]] = {}
    for number in range(KIND_LAYOUTS):
        for thing in start(game, layout_seed("train", number)).things.values():
            keys = found.setdefault(thing.type, [])
            keys += [key for key in thing.properties if key not in keys]
    return found


def _call(template: str) -> str:
    """A verb's template with letters for what it takes: ``put X in Y``."""
    return template.format(*"XYZW"[: template.count("{}")])


def embedded_examples() -> dict[str, TextTransition]:
    """The two in-prompt examples, always the same: driven by the ``action`` alone, and by the ``tick`` alone."""
    crawled = [TextTransition.from_record(record) for record in crawl(GAMES[EXAMPLE_GAME], EXAMPLE_LAYOUT)]
    return {phase: _first_driven_by(phase, crawled) for phase in ("action", "tick")}


def _first_driven_by(phase: str, crawled: Iterable[TextTransition]) -> TextTransition:
    """The first transition whose objects change in this phase only."""
    for item in crawled:
        if {note.partition(":")[0] for note in item.notes} - {"score"} == {phase}:
            return item
    raise RuntimeError(f"{EXAMPLE_GAME}: no transition is driven by the {phase} alone")

"""The embedded text games: twelve layouts over the shared physics, ten for training and two held out.

Each game is a random layout (which things, where, with which numbers and ids) and a gold play-through, a generator that
reads the live world and says what to do next. ``HELD_OUT`` names the two games that no training data contains.
"""

from collections.abc import Callable, Iterator
from random import Random

from rlvr_lib.worlds import text_physics as physics
from rlvr_lib.worlds.text_engine import Game, World
from rlvr_lib.worlds.text_layout import Layout

HELD_OUT = ("soup", "dark-cellar")


def _fetch(world: World, role: str) -> Iterator[str]:
    """Open whatever closed box hides the thing, then take it."""
    holder = world.holder(world[role])
    if holder is not None and holder["isOpen"] is False:
        yield f"open {holder}"
    yield f"take {world[role]}"


def _wait(until: Callable[[], bool], most: int = 12) -> Iterator[str]:
    for _ in range(most):
        if until():
            return
        yield "look"


# ---- heating and phase change
def _boil(rng: Random) -> World:
    lay = Layout(rng, "kitchen", 9)
    lay.put("stove", "stove|hob", "Stove", isOn=False, isOpen=True, power=rng.choice([10, 15, 20, 25]))
    lay.put("cupboard", "cupboard|cabinet", "Cupboard", isOpen=rng.random() < 0.5)
    lay.put("pot", "pot|kettle|pan", "Pot", rng.choice(["room", "cupboard"]), isOpen=True)
    lay.put(
        "water", "water|milk|juice", "Liquid", "pot", temperature=rng.choice([10, 20, 30, 40]), stateOfMatter="liquid"
    )
    lay.clutter(2, ("room", "cupboard"))
    return lay.done(("pot", None, "stove"), ("stove", "isOn", True), ("water", "stateOfMatter", "gas"))


def _boil_gold(world: World) -> Iterator[str]:
    yield from _fetch(world, "pot")
    yield f"put {world['pot']} in {world['stove']}"
    yield f"turn on {world['stove']}"
    yield from _wait(lambda: world["water"]["stateOfMatter"] == "gas")


# ---- cooling
def _freeze(rng: Random) -> World:
    lay = Layout(rng, "kitchen", 9)
    lay.put("freezer", "freezer|icebox", "Freezer", isOpen=rng.random() < 0.4)
    lay.put("cupboard", "cupboard|cabinet", "Cupboard", isOpen=rng.random() < 0.5)
    lay.put("tray", "tray|mould|bowl", "Pot", rng.choice(["room", "cupboard"]), isOpen=True)
    lay.put(
        "juice", "juice|water|milk", "Liquid", "tray", temperature=rng.choice([15, 20, 35, 50]), stateOfMatter="liquid"
    )
    lay.clutter(2, ("room", "cupboard", "freezer"))
    return lay.done(("tray", None, "freezer"), ("juice", "stateOfMatter", "solid"))


def _freeze_gold(world: World) -> Iterator[str]:
    yield from _fetch(world, "tray")
    if not world["freezer"]["isOpen"]:
        yield f"open {world['freezer']}"
    yield f"put {world['tray']} in {world['freezer']}"
    yield f"close {world['freezer']}"
    yield from _wait(lambda: world["juice"]["stateOfMatter"] == "solid")


# ---- an electric circuit
def _lamp(rng: Random) -> World:
    lay = Layout(rng, rng.choice(["workshop", "lab"]), 7)
    free = [None, None]
    lay.put("battery", "battery|cell", "Battery", ends={"anode": free, "cathode": free})
    lay.put("bulb", "bulb|lamp", "Bulb", isOn=False, ends={"left": free, "right": free})
    for role, noun in zip(("wire1", "wire2"), rng.sample(["cable", "wire", "lead"], 2), strict=True):
        lay.put(role, noun, "Wire", ends={"tip": free, "tail": free})
    lay.clutter(1)
    return lay.done(("bulb", "isOn", True))


def _lamp_gold(world: World) -> Iterator[str]:
    battery, bulb, one, two = (world[role] for role in ("battery", "bulb", "wire1", "wire2"))
    yield f"connect {one} tip to {battery} anode"
    yield f"connect {one} tail to {bulb} left"
    yield f"connect {two} tip to {bulb} right"
    yield f"connect {two} tail to {battery} cathode"


# ---- containers and cleaning
def _dishes(rng: Random) -> World:
    lay = Layout(rng, rng.choice(["scullery", "kitchen"]), 9)
    lay.put("sink", "sink|basin", "Sink", isOn=rng.random() < 0.3, isOpen=True)
    lay.put("rack", "rack|shelf", "Rack", isOpen=True)
    lay.put("dish", "plate|dish|mug", "Dish", rng.choice(["room", "sink"]), isDirty=True, wetness=0)
    lay.put("sponge", "sponge|cloth", "Sponge", rng.choice(["room", "sink"]), wetness=0)
    lay.put("spare", "saucer|tumbler", "Dish", isDirty=rng.random() < 0.5, wetness=rng.randint(0, 3))
    lay.clutter(1)
    return lay.done(("dish", "isDirty", False), ("dish", "wetness", 0), ("dish", None, "rack"))


def _dishes_gold(world: World) -> Iterator[str]:
    for role in ("dish", "sponge"):
        if world.holder(world[role]) is not world["sink"]:
            yield f"take {world[role]}"
            yield f"put {world[role]} in {world['sink']}"
    if not world["sink"]["isOn"]:
        yield f"turn on {world['sink']}"
    yield from _wait(lambda: world["sponge"]["wetness"] > 0)
    yield f"take {world['sponge']}"
    yield f"scrub {world['dish']} with {world['sponge']}"
    yield f"turn off {world['sink']}"
    yield f"take {world['dish']}"
    yield f"put {world['dish']} in {world['rack']}"
    yield from _wait(lambda: world["dish"]["wetness"] == 0)


# ---- growth
def _garden(rng: Random) -> World:
    lay = Layout(rng, rng.choice(["greenhouse", "garden"]), 7)
    growth = rng.choice([0, 2, 4])
    stage = ("seed", "seed", "seed", "sprout", "sprout")[growth]
    fruit = rng.choice(["apple", "pear", "plum"])
    lay.put("bed", "bed|trough", "Bed", isOpen=True)
    lay.put("plant", "tree|bush", "Plant", "bed", moisture=rng.randint(0, 2), growth=growth, stage=stage, fruit=fruit)
    lay.put("shed", "shed|cabinet", "Cupboard", isOpen=rng.random() < 0.5)
    lay.put("jug", "jug|can", "Jug", rng.choice(["room", "shed"]), level=rng.randint(3, 5))
    lay.clutter(2, ("room", "shed"))
    return lay.done(("plant", "stage", "blooming"))


def _garden_gold(world: World) -> Iterator[str]:
    yield from _fetch(world, "jug")
    for _ in range(14):
        if world["plant"]["growth"] == 9:
            return
        dry = world["plant"]["moisture"] == 0 and world["jug"]["level"] > 0
        yield f"water {world['plant']} with {world['jug']}" if dry else "look"


# ---- cooking with tools
def _toast(rng: Random) -> World:
    lay = Layout(rng, "kitchen", 8)
    lay.put("stove", "stove|hob", "Stove", isOn=False, isOpen=True, power=rng.choice([20, 25, 30]))
    lay.put("pan", "skillet|griddle", "Pot", "stove", isOpen=True)
    lay.put("drawer", "drawer|cabinet", "Cupboard", isOpen=rng.random() < 0.5)
    lay.put("knife", "knife|blade", "Knife", rng.choice(["room", "drawer"]))
    lay.put("loaf", "loaf|bread", "Loaf")
    lay.put("egg", "egg|bun", "Food", temperature=20, doneness="raw")
    lay.clutter(1, ("room", "drawer"))
    return lay.done(("knife", None, "agent"), ("egg", "doneness", "cooked"))


def _toast_gold(world: World) -> Iterator[str]:
    yield from _fetch(world, "knife")
    yield f"cut {world['loaf']} with {world['knife']}"
    slices = [thing for thing in world.of("Food") if thing is not world["egg"]]
    for food in (slices[0], world["egg"]):
        yield f"take {food}"
        yield f"put {food} in {world['pan']}"
    yield f"turn on {world['stove']}"
    yield from _wait(lambda: world["egg"]["doneness"] == "cooked")


# ---- weighing
def _scales(rng: Random) -> World:
    lay = Layout(rng, rng.choice(["lab", "market"]), 8)
    lay.put("scale", "scale|balance", "Scale", isOpen=True, tilt="level")
    lay.put("left", "basket|dishpan", "Pan", "scale", isOpen=True)
    lay.put("right", "basket|dishpan", "Pan", "scale", isOpen=True)
    masses = rng.sample(range(1, 10), 2)
    for role, nouns, mass in zip(
        ("heavy", "light"), ("stone|cube", "coin|bead"), sorted(masses, reverse=True), strict=True
    ):
        lay.put(role, nouns, "Weight", mass=mass)
    lay.put("spare", "brick|nut", "Weight", mass=rng.randint(1, 9))
    lay.clutter(1)
    return lay.done(("light", None, "left"), ("heavy", None, "right"), ("scale", "tilt", "right"))


def _scales_gold(world: World) -> Iterator[str]:
    for role, side in (("light", "left"), ("heavy", "right")):
        yield f"take {world[role]}"
        yield f"put {world[role]} in {world[side]}"


# ---- light and power
def _torch(lay: Layout, where: str = "room", charges: tuple[int, ...] = (4, 6, 8, 9)) -> None:
    lay.put(
        "torch",
        "torch|lantern",
        "Torch",
        where,
        isOn=False,
        charge=lay.rng.choice(charges),
        drain=lay.rng.randint(1, 3),
    )


def _night(rng: Random) -> World:
    lay = Layout(rng, rng.choice(["attic", "tunnel"]), 8, isLit=False)
    lay.put("box", "box|crate", "Box", isOpen=rng.random() < 0.5)
    _torch(lay, rng.choice(["room", "box"]))
    lay.put("letter", "letter|map", "Page", rng.choice(["room", "box"]), isRead=False)
    lay.put("other", "card|note", "Page", isRead=False)
    lay.clutter(2, ("room", "box"))
    return lay.done(("torch", None, "agent"), ("letter", "isRead", True))


def _night_gold(world: World) -> Iterator[str]:
    yield from _fetch(world, "torch")
    yield f"turn on {world['torch']}"
    if world.holder(world["letter"])["isOpen"] is False:
        yield f"open {world['box']}"
    yield f"read {world['letter']}"


# ---- locked doors
def _colours(rng: Random) -> list[str]:
    return rng.sample(["red", "blue", "green", "gold"], 2)


def _vault(rng: Random) -> World:
    lay = Layout(rng, rng.choice(["vault", "hall"]), 9)
    outer, inner = _colours(rng)
    lay.put("first", "chest|trunk", "Chest", isOpen=False, isLocked=True, colour=outer)
    lay.put("second", "safe|coffer", "Chest", isOpen=False, isLocked=True, colour=inner, alarm=rng.randint(2, 4))
    lay.put("key1", "key", "Key", colour=outer)
    lay.put("key2", "key", "Key", "first", colour=inner)
    lay.put("prize", "crown|gem", "Thing", "second")
    lay.clutter(2, ("room", "first"))
    return lay.done(("second", "isLocked", False), ("prize", None, "agent"))


def _vault_gold(world: World) -> Iterator[str]:
    for chest, key in (("first", "key1"), ("second", "key2")):
        yield f"take {world[key]}"
        yield f"unlock {world[chest]} with {world[key]}"
        yield f"open {world[chest]}"
    yield f"take {world['prize']}"


# ---- a machine with a cycle
def _laundry(rng: Random) -> World:
    lay = Layout(rng, rng.choice(["laundry", "cellar"]), 8)
    lay.put("washer", "washer|machine", "Washer", isOpen=rng.random() < 0.5, isOn=False, cyclesLeft=rng.randint(2, 4))
    lay.put("line", "line|hanger", "Rack", isOpen=True)
    lay.put("shirt", "shirt|sock|scarf", "Cloth", isDirty=True, wetness=0)
    lay.put(
        "towel",
        "towel|apron",
        "Cloth",
        rng.choice(["room", "line"]),
        isDirty=rng.random() < 0.5,
        wetness=rng.randint(0, 2),
    )
    lay.clutter(2)
    return lay.done(("shirt", "isDirty", False), ("shirt", "wetness", 0))


def _laundry_gold(world: World) -> Iterator[str]:
    washer, shirt = world["washer"], world["shirt"]
    if not washer["isOpen"]:
        yield f"open {washer}"
    yield f"take {shirt}"
    yield f"put {shirt} in {washer}"
    yield f"close {washer}"
    yield f"turn on {washer}"
    yield from _wait(lambda: not washer["isOn"])
    yield f"open {washer}"
    yield f"take {shirt}"
    yield f"put {shirt} in {world['line']}"
    yield from _wait(lambda: shirt["wetness"] == 0)


# ---- held out: known physics in new company
def _soup(rng: Random) -> World:
    lay = Layout(rng, "kitchen", 9)
    lay.put("stove", "stove|hob", "Stove", isOn=False, isOpen=True, power=rng.choice([10, 15, 20, 25]))
    lay.put("pot", "pot|pan", "Pot", isOpen=True)
    lay.put("water", "water|milk", "Liquid", "pot", temperature=rng.choice([10, 20, 30]), stateOfMatter="liquid")
    lay.put("drawer", "drawer|cabinet", "Cupboard", isOpen=rng.random() < 0.5)
    lay.put("knife", "knife|blade", "Knife", "drawer")
    lay.put("apple", "apple|pear|plum", "Fruit", isCut=False)
    lay.clutter(1)
    return lay.done(("apple", "isCut", True), ("pot", None, "stove"), ("water", "stateOfMatter", "gas"))


def _soup_gold(world: World) -> Iterator[str]:
    yield from _fetch(world, "knife")
    yield f"cut {world['apple']} with {world['knife']}"
    yield from _boil_gold(world)


def _dark_cellar(rng: Random) -> World:
    lay = Layout(rng, rng.choice(["cellar", "tunnel"]), 8, isLit=False)
    colour, other = _colours(rng)
    lay.put("chest", "chest|trunk", "Chest", isOpen=False, isLocked=True, colour=colour)
    lay.put("key", "key", "Key", colour=colour)
    lay.put("wrong", "key", "Key", colour=other)
    _torch(lay)
    lay.put("letter", "letter|map", "Page", "chest", isRead=False)
    lay.clutter(2)
    return lay.done(("chest", "isLocked", False), ("letter", "isRead", True))


def _dark_cellar_gold(world: World) -> Iterator[str]:
    yield f"take {world['key']}"
    yield f"unlock {world['chest']} with {world['key']}"
    yield f"open {world['chest']}"
    yield f"take {world['torch']}"
    yield f"turn on {world['torch']}"
    yield f"read {world['letter']}"


def _game(name: str, build, gold, verbs: str, *laws) -> Game:
    chosen = tuple(getattr(physics, verb.upper().replace(" ", "_")) for verb in verbs.split(", ") if verb)
    return Game(name, physics.EVERYDAY + chosen, laws, build, gold)


_DOORS = "open, close"
_POWER = "turn on, turn off"
GAMES: dict[str, Game] = {
    game.name: game
    for game in (
        _game("boil-water", _boil, _boil_gold, f"{_DOORS}, {_POWER}", physics.TEMPERATURE),
        _game("freeze-juice", _freeze, _freeze_gold, _DOORS, physics.TEMPERATURE),
        _game("light-bulb", _lamp, _lamp_gold, "connect, disconnect", physics.CIRCUIT),
        _game("wash-dishes", _dishes, _dishes_gold, f"scrub, {_POWER}", physics.MOISTURE),
        _game("grow-fruit", _garden, _garden_gold, f"{_DOORS}, water", physics.GROWTH),
        _game("make-toast", _toast, _toast_gold, f"{_DOORS}, {_POWER}, cut", physics.TEMPERATURE),
        _game("weigh-stones", _scales, _scales_gold, "", physics.BALANCE),
        _game("night-letter", _night, _night_gold, f"{_DOORS}, {_POWER}, read", physics.LIGHT),
        _game("open-vault", _vault, _vault_gold, f"{_DOORS}, unlock", physics.ALARM),
        _game("do-laundry", _laundry, _laundry_gold, f"{_DOORS}, {_POWER}", physics.WASHING, physics.MOISTURE),
        _game("soup", _soup, _soup_gold, f"{_DOORS}, {_POWER}, cut", physics.TEMPERATURE),
        _game(
            "dark-cellar",
            _dark_cellar,
            _dark_cellar_gold,
            f"{_DOORS}, {_POWER}, unlock, read",
            physics.LIGHT,
            physics.ALARM,
        ),
    )
}
TRAINING_GAMES = tuple(name for name in GAMES if name not in HELD_OUT)

"""Verbs and laws of nature that the embedded games are composed of; each is used by several games.

Held-out games reuse these rules in new company, so they ask for composition rather than for unseen physics.
"""

from collections.abc import Iterable
from itertools import product

from rlvr_lib.worlds.text_engine import AGENT, Law, Thing, Verb, World

FIXED = {"World", "Agent", "Stove", "Freezer", "Sink", "Rack", "Cupboard", "Washer", "Chest", "Scale", "Pan", "Plant"}
OPENABLE = {"Freezer", "Cupboard", "Washer", "Chest", "Box"}
AMBIENT = 20  # degrees Celsius


def is_movable(thing: Thing) -> bool:
    return thing.type not in FIXED


def is_container(thing: Thing) -> bool:
    return "isOpen" in thing.properties and thing.uuid != AGENT


def _with(*tests):
    """Candidates: every tuple of different things that pass the tests slot by slot."""

    def candidates(world: World) -> Iterable[tuple[Thing, ...]]:
        slots = [[thing for thing in world.things.values() if test(thing)] for test in tests]
        return (things for things in product(*slots) if len({thing.uuid for thing in things}) == len(things))

    return candidates


def _typed(*types: str):
    return lambda thing: thing.type in types


# ---- verbs
def _take(world: World, thing: Thing) -> None:
    if world.reachable(thing) and not world.held(thing):
        world.move(thing, world.things[AGENT])


def _put(world: World, thing: Thing, box: Thing) -> None:
    if world.held(thing) and box["isOpen"] and world.reachable(box) and box not in world.below(thing):
        world.move(thing, box)


def _open(world: World, thing: Thing) -> None:
    if world.reachable(thing) and not thing["isLocked"] and not thing["isOn"]:
        world.set(thing, "isOpen", True)


def _close(world: World, thing: Thing) -> None:
    if world.reachable(thing):
        world.set(thing, "isOpen", False)


def _turn_on(world: World, thing: Thing) -> None:
    stuck = thing["charge"] == 0 or thing["cyclesLeft"] == 0 or (thing.type == "Washer" and thing["isOpen"])
    if world.reachable(thing) and not stuck:
        world.set(thing, "isOn", True)


def _turn_off(world: World, thing: Thing) -> None:
    if world.reachable(thing):
        world.set(thing, "isOn", False)


def _cut(world: World, food: Thing, knife: Thing) -> None:
    if not (world.held(knife) and world.reachable(food)):
        return
    if food.type == "Loaf":
        holder = world.holder(food)
        world.remove(food)
        for _ in range(2):
            world.add("slice", "Food", {"temperature": AMBIENT, "doneness": "raw"}, holder)
    else:
        world.set(food, "isCut", True)


def _scrub(world: World, dish: Thing, sponge: Thing) -> None:
    if world.held(sponge) and world.reachable(dish) and dish["wetness"] > 0 and sponge["wetness"] > 0:
        world.set(dish, "isDirty", False)


def _unlock(world: World, chest: Thing, key: Thing) -> None:
    if world.held(key) and world.reachable(chest) and chest["isLocked"] and key["colour"] == chest["colour"]:
        world.set(chest, "isLocked", False)


def _read(world: World, page: Thing) -> None:
    if world.reachable(page) and world["room"]["isLit"]:
        world.set(page, "isRead", True)


def _water(world: World, plant: Thing, jug: Thing) -> None:
    if world.held(jug) and jug["level"] > 0:
        world.set(jug, "level", jug["level"] - 1)
        world.set(plant, "moisture", min(plant["moisture"] + 3, 9))


def _terminals(thing: Thing) -> list[str]:
    return list(thing["ends"]) if thing["ends"] else []


def _connections(world: World) -> Iterable[tuple[Thing, str, Thing, str]]:
    parts = [thing for thing in world.things.values() if thing["ends"]]
    wires = [part for part in parts if part.type == "Wire"]
    others = [part for part in parts if part.type != "Wire"]
    for wire, part in product(wires, others):
        for a, b in product(_terminals(wire), _terminals(part)):
            yield wire, a, part, b


def _link(world: World, thing: Thing, terminal: str, other: list) -> None:
    world.set(thing, "ends", {**thing["ends"], terminal: other})


def _connect(world: World, wire: Thing, a: str, part: Thing, b: str) -> None:
    if wire["ends"][a] == [None, None] and part["ends"][b] == [None, None]:
        _link(world, wire, a, [part.name, b])
        _link(world, part, b, [wire.name, a])


def _disconnect(world: World, wire: Thing) -> None:
    for a, (name, b) in wire["ends"].items():
        if name is not None:
            part = next(thing for thing in world.things.values() if thing.name == name)
            _link(world, part, b, [None, None])
            _link(world, wire, a, [None, None])


TAKE = Verb("take", "take {}", _with(is_movable), _take, "A thing within reach is taken into the hands.")
PUT = Verb("put", "put {} in {}", _with(is_movable, is_container), _put, "A held thing is put into an open container.")
OPEN = Verb("open", "open {}", _with(_typed(*OPENABLE)), _open, "Opens what can be opened, unless locked or running.")
CLOSE = Verb("close", "close {}", _with(_typed(*OPENABLE)), _close, "Closes what can be closed.")
TURN_ON = Verb(
    "turn on",
    "turn on {}",
    _with(lambda thing: "isOn" in thing.properties and thing.type != "Bulb"),
    _turn_on,
    "Starts a device; an empty torch, a finished washer or a washer left open does not start.",
)
TURN_OFF = Verb("turn off", "turn off {}", TURN_ON.candidates, _turn_off, "Stops a device.")
CUT = Verb(
    "cut",
    "cut {} with {}",
    _with(lambda thing: thing.type == "Loaf" or "isCut" in thing.properties, _typed("Knife", "Sponge")),
    lambda world, food, tool: _cut(world, food, tool) if tool.type == "Knife" else None,
    "With a held knife: a loaf is replaced by two new slices, anything else becomes cut.",
)
SCRUB = Verb(
    "scrub",
    "scrub {} with {}",
    _with(_typed("Dish"), _typed("Sponge")),
    _scrub,
    "A held wet sponge cleans a wet dish.",
)
UNLOCK = Verb(
    "unlock",
    "unlock {} with {}",
    _with(_typed("Chest"), _typed("Key")),
    _unlock,
    "Needs a held key of the same colour.",
)
READ = Verb("read", "read {}", _with(_typed("Page")), _read, "A page can be read while the room is lit.")
WATER = Verb(
    "water",
    "water {} with {}",
    _with(_typed("Plant"), _typed("Jug")),
    _water,
    "Takes 1 from a held jug, gives 3 of moisture (9 at most).",
)
CONNECT = Verb("connect", "connect {} {} to {} {}", _connections, _connect, "Joins two free terminals.")
DISCONNECT = Verb("disconnect", "disconnect {}", _with(_typed("Wire")), _disconnect, "Frees both ends of a wire.")
LOOK = Verb("look", "look", lambda world: [()], lambda world: None, "Nothing but time passes.")
INVENTORY = Verb("inventory", "inventory", lambda world: [()], lambda world: None, "Nothing but time passes.")
EVERYDAY = (LOOK, INVENTORY, TAKE, PUT)


# ---- laws
def _set_temperature(world: World, thing: Thing, degrees: int) -> None:
    world.set(thing, "temperature", degrees)
    if "stateOfMatter" in thing.properties:
        world.set(thing, "stateOfMatter", "solid" if degrees <= 0 else "gas" if degrees >= 100 else "liquid")
    if "doneness" in thing.properties:
        burnt, cooked = degrees >= 120 or thing["doneness"] == "burnt", degrees >= 70 or thing["doneness"] == "cooked"
        world.set(thing, "doneness", "burnt" if burnt else "cooked" if cooked else "raw")


def _temperature(world: World) -> None:
    heat = {item.uuid: stove["power"] for stove in world.of("Stove") if stove["isOn"] for item in world.below(stove)}
    cold = {item.uuid for box in world.of("Freezer") if not box["isOpen"] for item in world.below(box)}
    for thing in list(world.things.values()):
        degrees = thing["temperature"]
        if degrees is None:
            continue
        if thing.uuid in heat:
            degrees = min(degrees + heat[thing.uuid], 120 if "doneness" in thing.properties else 100)
        elif thing.uuid in cold:
            degrees = max(degrees - 15, -10)
        else:
            degrees += max(-5, min(5, AMBIENT - degrees))
        if degrees != thing["temperature"]:
            _set_temperature(world, thing, degrees)


def _light(world: World) -> None:
    for torch in world.of("Torch"):
        if torch["isOn"]:
            world.set(torch, "charge", max(torch["charge"] - torch["drain"], 0))
            if torch["charge"] == 0:
                world.set(torch, "isOn", False)
    world.set(world["room"], "isLit", any(torch["isOn"] for torch in world.of("Torch")))


def _circuit(world: World) -> None:
    """A bulb shines when a wire joins each of its ends to a different end of one battery."""
    by_name = {thing.name: thing for thing in world.things.values()}
    for bulb in world.of("Bulb"):
        reached = []
        for name, terminal in bulb["ends"].values():
            if name is not None:
                far = next(end for end in by_name[name]["ends"] if end != terminal)
                reached.append(tuple(by_name[name]["ends"][far]))
        batteries = {name for name, _ in reached}
        closed = len(set(reached)) == 2 and len(batteries) == 1 and None not in batteries
        world.set(bulb, "isOn", closed and by_name[batteries.pop()].type == "Battery")


def _moisture(world: World) -> None:
    for sink in world.of("Sink"):
        for item in world.inside(sink) if sink["isOn"] else ():
            if "wetness" in item.properties:
                world.set(item, "wetness", 3)
    for rack in world.of("Rack"):
        for item in world.inside(rack):
            if item["wetness"]:
                world.set(item, "wetness", item["wetness"] - 1)


def _growth(world: World) -> None:
    stages = ("seed", "sprout", "leafy", "blooming")
    for plant in world.of("Plant"):
        if plant["moisture"] == 0:
            continue
        world.set(plant, "moisture", plant["moisture"] - 1)
        if plant["growth"] < 9:
            world.set(plant, "growth", plant["growth"] + 1)
            world.set(plant, "stage", stages[plant["growth"] // 3])
            if plant["growth"] == 9:
                world.add(plant["fruit"], "Fruit", {"isCut": False}, world.holder(plant))


def _balance(world: World) -> None:
    for scale in world.of("Scale"):
        left, right = (sum(item["mass"] or 0 for item in world.below(world[side])) for side in ("left", "right"))
        world.set(scale, "tilt", "left" if left > right else "right" if right > left else "level")


def _washing(world: World) -> None:
    for washer in world.of("Washer"):
        if not washer["isOn"]:
            continue
        world.set(washer, "cyclesLeft", washer["cyclesLeft"] - 1)
        if washer["cyclesLeft"] == 0:
            world.set(washer, "isOn", False)
            for item in world.inside(washer):
                if "wetness" in item.properties:
                    world.set(item, "isDirty", False)
                    world.set(item, "wetness", 3)


def _alarm(world: World) -> None:
    for chest in world.of("Chest"):
        if chest["isOpen"] and "alarm" in chest.properties and chest["alarm"] > 0:
            world.set(chest, "alarm", chest["alarm"] - 1)
            world.lost = chest["alarm"] == 0


TEMPERATURE = Law(
    "temperature",
    _temperature,
    "What stands on a burning stove warms by the stove's power (to 100, food to 120); what lies in a closed freezer"
    " cools by 15 (to -10); everything else drifts by 5 towards 20. Liquids freeze at 0 and boil at 100; food is cooked"
    " from 70 and burnt from 120.",
)
LIGHT = Law(
    "light", _light, "A torch that is on loses its drain; empty, it goes out. The room is lit while a torch is on."
)
CIRCUIT = Law("circuit", _circuit, "A bulb is on when its two ends reach the two ends of one battery.")
MOISTURE = Law("moisture", _moisture, "A running sink makes what lies in it wet (3); a rack dries by 1.")
GROWTH = Law(
    "growth", _growth, "A moist plant uses 1 of moisture and grows by 1, a new stage every 3; at 9 it bears one fruit."
)
BALANCE = Law("balance", _balance, "A scale tilts to the heavier pan.")
WASHING = Law(
    "washing", _washing, "A running washer counts down; at 0 it stops, and what is inside is clean and wet (3)."
)
ALARM = Law("alarm", _alarm, "An open chest with an alarm counts down; at 0 the game is lost.")

"""Building the random layout of a text game: things with shuffled ids, roles for the ones that matter, clutter."""

from random import Random

from rlvr_lib.worlds.text_engine import AGENT, ROOM, Goal, Thing, World

CLUTTER = ("cup", "spoon", "book", "ball", "box", "brush", "rope")
CLUTTER += ("toy", "stone", "coin", "bell", "mask", "glove", "ring")


class Layout:
    """Builds a world: things get shuffled ids, roles name the ones that matter, clutter fills up."""

    def __init__(self, rng: Random, room: str, size: int, **room_properties):
        self.rng, self.world, self.free = rng, World(), list(range(2, 2 + size))
        rng.shuffle(self.free)
        self._place("agent", ["agent"], "Agent", {"isOpen": True}, AGENT)
        self._place("room", [room], "World", {"isOpen": True, **room_properties}, ROOM)
        self.world.things[ROOM].contains.append(AGENT)

    def _place(self, role: str, nouns: list[str], type_: str, properties: dict, uuid: int) -> Thing:
        thing = Thing(uuid, f"{self.rng.choice(nouns)} (ID: {uuid})", type_, dict(properties), [])
        self.world.things[uuid] = thing
        self.world.roles[role] = uuid
        return thing

    def put(self, role: str, nouns: str, type_: str, where: str = "room", **properties) -> Thing:
        """Add a thing; ``nouns`` is a choice separated by ``|``, ``where`` the role of what holds it."""
        thing = self._place(role, nouns.split("|"), type_, properties, self.free.pop())
        self.world[where].contains.append(thing.uuid)
        return thing

    def clutter(self, most: int = 2, boxes: tuple[str, ...] = ("room",)) -> None:
        names = self.rng.sample(CLUTTER, self.rng.randint(0, most))
        for number, noun in enumerate(names):
            where = self.rng.choice(boxes)
            if noun == "box":
                self.put(f"clutter{number}", noun, "Box", where, isOpen=self.rng.random() < 0.5)
            else:
                self.put(f"clutter{number}", noun, "Thing", where)

    def done(self, *goals: tuple[str, str | None, object]) -> World:
        """Finish: goals by role; the score starts from whatever already holds."""
        world, role = self.world, self.world.roles
        world.goals = tuple(Goal(role[a], key, role[b] if key is None else b) for a, key, b in goals)
        shuffled = [world.things[ROOM], world.things[AGENT]]
        rest = [thing for uuid, thing in world.things.items() if uuid > AGENT + 1]
        world.things = {thing.uuid: thing for thing in shuffled + sorted(rest, key=lambda thing: thing.uuid)}
        world.max_uuid = max(world.things)
        return world

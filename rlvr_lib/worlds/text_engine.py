"""A small engine for text games with ticking physics; states are ByteSized32 records (spec A.1).

A world is a tree of :class:`Thing`. One step is an action phase (a verb changes things) and then a tick phase (laws of
nature change things by themselves). Nothing that matters is hidden: the next state is a function of the written state,
the goals and the action, so a perfect world model exists. Every change is also written down as a note; the notes are
what the engine says when it acts as the chain-of-thought teacher.
"""

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from random import Random
from typing import Any, NamedTuple

AGENT, ROOM = 0, 1  # uuids that every layout uses


class Thing:
    """An object: ``name`` embeds the uuid, ``contains`` holds the uuids of what lies directly inside."""

    __slots__ = ("contains", "name", "properties", "type", "uuid")

    def __init__(self, uuid: int, name: str, type_: str, properties: dict[str, Any], contains: list[int]):
        self.uuid, self.name, self.type, self.properties, self.contains = uuid, name, type_, properties, contains

    def copy(self) -> "Thing":
        return Thing(self.uuid, self.name, self.type, self.properties.copy(), self.contains.copy())

    def __str__(self) -> str:
        return self.name

    def __getitem__(self, key: str) -> Any:
        return self.properties.get(key)


class Goal(NamedTuple):
    """``thing`` has ``key`` equal to ``value``; with ``key`` None: ``thing`` lies in the thing with uuid ``value``."""

    thing: int
    key: str | None
    value: Any


class World:
    """Things by uuid, goals and bookkeeping. Copies share goals and roles, which never change."""

    __slots__ = ("goals", "lost", "max_uuid", "notes", "phase", "roles", "things")

    def __init__(self) -> None:
        self.things: dict[int, Thing] = {}
        self.goals: tuple[Goal, ...] = ()
        self.roles: dict[str, int] = {}
        self.notes: list[str] = []
        self.phase, self.lost, self.max_uuid = "action", False, 0

    def copy(self) -> "World":
        twin = World.__new__(World)
        twin.things = {uuid: thing.copy() for uuid, thing in self.things.items()}
        twin.goals, twin.roles, twin.notes = self.goals, self.roles, []
        twin.phase, twin.lost, twin.max_uuid = "action", self.lost, self.max_uuid
        return twin

    # ---- looking
    def __getitem__(self, role: str) -> Thing:
        return self.things[self.roles[role]]

    def holder(self, thing: Thing) -> Thing | None:
        return next((other for other in self.things.values() if thing.uuid in other.contains), None)

    def inside(self, thing: Thing) -> list[Thing]:
        return [self.things[uuid] for uuid in thing.contains]

    def below(self, thing: Thing) -> list[Thing]:
        """Everything inside, at any depth."""
        return [deep for child in self.inside(thing) for deep in (child, *self.below(child))]

    def of(self, type_: str) -> list[Thing]:
        return [thing for thing in self.things.values() if thing.type == type_]

    def reachable(self, thing: Thing) -> bool:
        """True when every container around the thing is open."""
        holder = self.holder(thing)
        while holder is not None:
            if holder["isOpen"] is False:
                return False
            holder = self.holder(holder)
        return True

    def held(self, thing: Thing) -> bool:
        return thing.uuid in self.things[AGENT].contains

    # ---- changing (each writes a note)
    def set(self, thing: Thing, key: str, value: Any) -> None:
        old = thing.properties.get(key)
        if old != value:
            thing.properties[key] = value
            self.note(f'"{thing}", "{key}": {json.dumps(old)} -> {json.dumps(value)}')

    def move(self, thing: Thing, target: Thing) -> None:
        holder = self.holder(thing)
        if holder is not None:
            holder.contains.remove(thing.uuid)
        target.contains.append(thing.uuid)
        self.note(f'"{thing}" -> "{target}"')

    def add(self, noun: str, type_: str, properties: dict[str, Any], holder: Thing | None) -> Thing:
        self.max_uuid += 1
        thing = Thing(self.max_uuid, f"{noun} (ID: {self.max_uuid})", type_, dict(properties), [])
        self.things[thing.uuid] = thing
        if holder is not None:
            holder.contains.append(thing.uuid)
            self.note(f'new "{thing}" -> "{holder}"')
        return thing

    def remove(self, thing: Thing) -> None:
        holder = self.holder(thing)
        if holder is not None:
            holder.contains.remove(thing.uuid)
        del self.things[thing.uuid]
        self.note(f'gone "{thing}"')

    def note(self, text: str) -> None:
        self.notes.append(f"{self.phase}: {text}")

    # ---- goals
    def met(self, goal: Goal) -> bool:
        thing = self.things.get(goal.thing)
        if goal.key is None:
            box = self.things.get(goal.value)
            return thing is not None and box is not None and goal.thing in box.contains
        return thing is not None and thing.properties.get(goal.key) == goal.value

    def score_record(self) -> dict[str, Any]:
        score = sum(self.met(goal) for goal in self.goals)
        won = score == len(self.goals)
        return {"score": score, "gameOver": won or self.lost, "gameWon": won}

    # ---- writing down
    def objects(self) -> list[dict[str, Any]]:
        things = self.things
        return [
            {
                "name": thing.name,
                "uuid": thing.uuid,
                "type": thing.type,
                "properties": thing.properties.copy(),
                "contains": [things[uuid].name for uuid in thing.contains],
            }
            for thing in things.values()
        ]

    def task(self) -> str:
        """Goals as text; the score counts how many hold."""

        def text(goal: Goal) -> str:
            thing = self.things[goal.thing]
            if goal.key is None:
                return f'"{thing}" in "{self.things[goal.value]}"'
            return f'"{thing}", "{goal.key}": {json.dumps(goal.value)}'

        return "Goals: " + "; ".join(text(goal) for goal in self.goals)

    def described(self, action: str, task: str, objects: list[dict[str, Any]] | None = None) -> dict[str, Any]:
        """The ``*_state`` part of a ByteSized32 record."""
        look = "You see: " + ", ".join(thing.name for thing in self.inside(self.things[ROOM]))
        held = ", ".join(thing.name for thing in self.inside(self.things[AGENT])) or "nothing"
        return {
            "observation": "; ".join(self.notes) or "Nothing happens.",
            "look": look,
            "inventory": f"You hold: {held}",
            "taskDesc": task,
            "lastAction": action,
            "objects": self.objects() if objects is None else objects,
            "max_UUID": self.max_uuid,
        }


class Verb(NamedTuple):
    """A kind of action: ``candidates(world)`` lists argument tuples, ``do(world, *arguments)`` changes the world."""

    name: str
    template: str
    candidates: Callable[[World], Iterable[tuple[Any, ...]]]
    do: Callable[..., None]
    rule: str


class Law(NamedTuple):
    """A tick rule: ``apply(world)`` lets time pass; ``rule`` says what it does, for prompts and readers."""

    name: str
    apply: Callable[[World], None]
    rule: str


@dataclass(frozen=True)
class Game:
    """A game: its verbs, its laws, a random layout and a gold play-through that reads the live world as it goes."""

    name: str
    verbs: tuple[Verb, ...]
    laws: tuple[Law, ...]
    build: Callable[[Random], World]
    gold: Callable[[World], Iterator[str]]

    def actions(self, world: World) -> dict[str, tuple[Verb, tuple[int | str, ...]]]:
        """Every valid action text with its verb and arguments (uuids, or terminal names), in a fixed order."""
        found = {}
        for verb in self.verbs:
            for arguments in verb.candidates(world):
                text = verb.template.format(*arguments)
                found[text] = (verb, tuple(a.uuid if isinstance(a, Thing) else a for a in arguments))
        return found

    def step(self, world: World, verb: Verb, arguments: tuple[int | str, ...]) -> None:
        """Action phase, in place."""
        world.phase = "action"
        verb.do(world, *(world.things[a] if isinstance(a, int) else a for a in arguments))

    def tick(self, world: World) -> None:
        """Tick phase, in place: the laws in their fixed order."""
        world.phase = "tick"
        for law in self.laws:
            law.apply(world)

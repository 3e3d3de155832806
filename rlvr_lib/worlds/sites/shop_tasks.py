"""Ten kinds of errand in the shop, each with its check and its scripted solver."""

from random import Random
from typing import Any

from rlvr_lib.worlds.sites.rules import (
    always,
    answer,
    at,
    both,
    choose,
    click,
    click_starting,
    field_holds,
    fill,
    shows,
    titled,
    when,
)
from rlvr_lib.worlds.sites.shop import CATEGORIES, DELIVERY, OPINIONS, Shop
from rlvr_lib.worlds.sites.site import Rule, SiteTask

CITIES = ("Brook", "Calder", "Dunmore", "Elton", "Fenwick", "Garth")


def _products(site: Shop, rng: Random, count: int = 1) -> list[Any]:
    """Products whose name no other product's name holds, so that a search finds them first."""
    return rng.sample(site.rows("SELECT * FROM products ORDER BY id"), count)


def _visit(name: str) -> tuple[Rule, ...]:
    """Reach a product's page from anywhere by searching."""
    return (*when(at("/search", "/category"), click("link", name)), *always(fill("Search", name, enter=True)))


def _basket(site: Shop) -> dict[str, int]:
    return {row["name"]: row["count"] for row in site.rows("SELECT * FROM basket JOIN products ON product = id")}


def add_one(site: Shop, rng: Random) -> SiteTask:
    name = _products(site, rng)[0]["name"]
    rules = (
        *when(shows(f"Added to the basket: 1 x {name}"), answer("")),
        *when(titled(name), click("button", "Add to basket")),
        *_visit(name),
    )
    goal = f"Put one {name} into the basket"
    return SiteTask("shop.add-one", goal, lambda site, _: _basket(site) == {name: 1}, rules)


def add_some(site: Shop, rng: Random) -> SiteTask:
    name, count = _products(site, rng)[0]["name"], rng.randint(2, 6)
    on_page = titled(name)
    rules = (
        *when(shows(f"Added to the basket: {count} x {name}"), answer("")),
        *when(on_page, fill("Count", str(count)), click("button", "Add to basket")),
        *_visit(name),
    )
    goal = f"Put {count} pieces of {name} into the basket"
    return SiteTask("shop.add-some", goal, lambda site, _: _basket(site) == {name: count}, rules)


def cheapest(site: Shop, rng: Random) -> SiteTask:
    category = rng.choice(list(CATEGORIES))
    best = site.row("SELECT * FROM products WHERE category = ? ORDER BY price, name", category)
    allowed = {
        row["name"]
        for row in site.rows("SELECT * FROM products WHERE category = ? AND price = ?", category, best["price"])
    }
    rules = (
        *when(shows("Added to the basket: 1 x"), answer("")),
        *when(shows("products, by price up"), click("button", "Add to basket")),
        *when(at(f"/category/{category}"), click("link", "Sort by price up")),
        *always(click("link", category)),
    )

    def check(site: Shop, _: str) -> bool:
        found = _basket(site)
        return len(found) == 1 and set(found) <= allowed

    return SiteTask(
        "shop.cheapest", f"Put the cheapest product of the category {category} into the basket", check, rules
    )


def question(site: Shop, rng: Random) -> SiteTask:
    product, field = _products(site, rng)[0], rng.choice(("price", "colour", "material", "stock"))
    name, truth = product["name"], str(product[field])
    rules = (*when(titled(name), answer(truth)), *_visit(name))
    goal = f"What does the page of {name} say about {field}? Answer with that word or number only"
    return SiteTask("shop.question", goal, lambda _, said: said.strip().lower() == truth, rules)


def wish(site: Shop, rng: Random) -> SiteTask:
    name = _products(site, rng)[0]["name"]
    on_page = titled(name)
    rules = (*when(on_page, click("button", "Add to wishes"), answer("")), *_visit(name))
    sql = "SELECT name FROM wishes JOIN products ON product = id"
    goal = f"Add {name} to the wishes"
    return SiteTask("shop.wish", goal, lambda site, _: [row["name"] for row in site.rows(sql)] == [name], rules)


def _filled(site: Shop, rng: Random) -> list[Any]:
    """Put three products into the basket before the task begins."""
    products = _products(site, rng, 3)
    for product in products:
        site.change("INSERT INTO basket VALUES (?, ?)", product["id"], rng.randint(1, 3))
    return products


def remove(site: Shop, rng: Random) -> SiteTask:
    products = _filled(site, rng)
    name = products[0]["name"]
    kept = {key: count for key, count in _basket(site).items() if key != name}
    rules = (
        *when(both(titled("Basket"), shows(name)), click("button", "Remove", after=name)),
        *when(titled("Basket"), answer("")),
        *always(click_starting("link", "Basket (")),
    )
    return SiteTask("shop.remove", f"Take {name} out of the basket", lambda site, _: _basket(site) == kept, rules)


def change_count(site: Shop, rng: Random) -> SiteTask:
    products = _filled(site, rng)
    name, count = products[1]["name"], rng.randint(4, 9)
    wanted = {**_basket(site), name: count}
    done = both(titled("Basket"), shows("The basket was changed"), field_holds("Count", str(count), after=name))
    change = (fill("Count", str(count), after=name), click("button", "Change", after=name))
    rules = (*when(done, answer("")), *when(titled("Basket"), *change), *always(click_starting("link", "Basket (")))
    goal = f"Change the count of {name} in the basket to {count}"
    return SiteTask("shop.change-count", goal, lambda site, _: _basket(site) == wanted, rules)


def order(site: Shop, rng: Random) -> SiteTask:
    _filled(site, rng)
    items = ", ".join(f"{count} x {name}" for name, count in sorted(_basket(site).items()))
    city, delivery = rng.choice(CITIES), rng.choice(DELIVERY[1:])
    rules = (
        *when(shows("Thank you for the order"), answer("")),
        *when(at("/checkout"), fill("City", city), choose("Delivery", delivery), click("button", "Place order")),
        *when(at("/basket"), click("link", "Go to checkout")),
        *always(click_starting("link", "Basket (")),
    )

    def check(site: Shop, _: str) -> bool:
        rows = site.rows("SELECT * FROM orders")
        return [(row["city"], row["delivery"], row["items"]) for row in rows] == [(city, delivery, items)]

    goal = f"Order what is in the basket, to be delivered to the city {city}, delivery {delivery}"
    return SiteTask("shop.order", goal, check, rules)


def review(site: Shop, rng: Random) -> SiteTask:
    name, stars, title = _products(site, rng)[0]["name"], str(rng.randint(1, 4)), rng.choice(OPINIONS)
    on_page = titled(name)
    rules = (
        *when(shows("Thank you for the review"), answer("")),
        *when(on_page, choose("Stars", stars), fill("Title", title), click("button", "Send review")),
        *_visit(name),
    )
    joined = "reviews JOIN products ON product = products.id"
    sql = f"SELECT name, reviews.stars AS stars, title FROM {joined} WHERE writer = 'robin'"
    wanted = [(name, int(stars), title)]
    goal = f"Write a review of {name} with {stars} stars and the title {title}"
    return SiteTask("shop.review", goal, lambda site, _: [tuple(row) for row in site.rows(sql)] == wanted, rules)


def move(site: Shop, rng: Random) -> SiteTask:
    city, street = rng.choice(CITIES), f"{rng.randint(1, 99)} Hill Road"
    rules = (
        *when(both(at("/account"), shows("Saved")), answer("")),
        *when(at("/account"), fill("Street", street), fill("City", city), click("button", "Save")),
        *always(click("link", "Account")),
    )
    sql = "SELECT name, street, city FROM account"
    wanted = ("Robin Vale", street, city)
    goal = f"Change the address in the account to the street {street} and the city {city}"
    return SiteTask("shop.move", goal, lambda site, _: tuple(site.row(sql)) == wanted, rules)


class TheShop(Shop):
    """The shop with its tasks."""

    templates = (add_one, add_some, cheapest, question, wish, remove, change_count, order, review, move)


__all__ = ["TheShop"]

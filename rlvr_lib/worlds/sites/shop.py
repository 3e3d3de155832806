"""The shop: about 120 products in six categories, search, sorting, reviews, basket, wish list, orders, an account."""

from random import Random
from typing import Any

from rlvr_lib.worlds.sites.markup import address, button_form, choice, el, field, link
from rlvr_lib.worlds.sites.site import Query, Site, number, page_links

CATEGORIES = {
    "Lamps": ("desk lamp", "floor lamp", "wall light", "lantern"),
    "Kitchen": ("kettle", "pan", "bowl set", "bread knife"),
    "Garden": ("spade", "watering can", "plant pot", "rake"),
    "Bags": ("backpack", "tote bag", "suitcase", "pouch"),
    "Paper": ("notebook", "planner", "sketch pad", "card set"),
    "Tools": ("hammer", "drill", "saw", "spanner"),
}
MAKERS = ("Aldo", "Brio", "Corvo", "Delmar", "Esker", "Fjord", "Gelen", "Halva", "Iduna", "Jotun", "Kasimir", "Lumen")
COLOURS = ("red", "blue", "green", "black", "white", "yellow", "grey")
MATERIALS = ("steel", "oak", "cotton", "glass", "clay", "paper", "brass")
WRITERS = ("ada", "ben", "cleo", "dario", "edda", "finn", "gita", "hugo", "iris", "jon")
OPINIONS = ("Does what it should", "Smaller than it looks", "Well made", "Arrived late", "A good present", "Too heavy")
SORTS = {"name": "name", "price up": "price, name", "price down": "price DESC, name", "rating": "stars DESC, name"}
DELIVERY = ("standard", "express", "pick up")
PER_PAGE = 30
TABLES = """
CREATE TABLE products (id INTEGER PRIMARY KEY, name TEXT, category TEXT, price INTEGER, stars INTEGER, colour TEXT,
  material TEXT, stock INTEGER);
CREATE TABLE reviews (id INTEGER PRIMARY KEY, product INTEGER, writer TEXT, stars INTEGER, title TEXT);
CREATE TABLE basket (product INTEGER PRIMARY KEY, count INTEGER);
CREATE TABLE wishes (product INTEGER PRIMARY KEY);
CREATE TABLE orders (id INTEGER PRIMARY KEY, delivery TEXT, city TEXT, total INTEGER, items TEXT);
CREATE TABLE account (name TEXT, street TEXT, city TEXT);
"""


class Shop(Site):
    """A shop with one customer, who is signed in."""

    name = "shop"

    def fill(self, rng: Random) -> None:
        self.data.executescript(TABLES)
        for category, kinds in CATEGORIES.items():
            names = [f"{maker} {kind}" for maker in MAKERS for kind in kinds]
            for name in rng.sample(names, rng.randint(16, 24)):
                self._add_product(rng, name, category)
        self.change("INSERT INTO account VALUES (?, ?, ?)", "Robin Vale", f"{rng.randint(1, 80)} Mill Lane", "Arden")

    def _add_product(self, rng: Random, name: str, category: str) -> None:
        values = (name, category, rng.randint(5, 180), rng.choice(COLOURS), rng.choice(MATERIALS), rng.randint(2, 30))
        product = self.data.execute(
            "INSERT INTO products (name, category, price, stars, colour, material, stock) VALUES (?,?,?,0,?,?,?)",
            values,
        ).lastrowid
        for _ in range(rng.randint(1, 5)):
            review = (product, rng.choice(WRITERS), rng.randint(1, 5), rng.choice(OPINIONS))
            self.data.execute("INSERT INTO reviews (product, writer, stars, title) VALUES (?,?,?,?)", review)
        self._rate(product)

    def _rate(self, product: int) -> None:
        mean = "(SELECT CAST(ROUND(AVG(stars)) AS INTEGER) FROM reviews WHERE product = products.id)"
        self.change(f"UPDATE products SET stars = {mean} WHERE id = ?", product)

    def banner(self) -> Any:
        items = self.value("SELECT COALESCE(SUM(count), 0) FROM basket")
        wishes = self.value("SELECT COUNT(*) FROM wishes")
        search = el("form", field("Search", "q", kind="search"), el("button", "Find"), action="/search", key="search")
        places = [link("Home", "/"), [link(name, f"/category/{name}") for name in CATEGORIES]]
        own = [link(f"Basket ({items})", "/basket"), link(f"Wishes ({wishes})", "/wishes")]
        return el("header", el("nav", places, own, link("Orders", "/orders"), link("Account", "/account")), search)

    def _list(self, products: list[Any]) -> Any:
        return el("ul", [self._entry(product) for product in products])

    def _entry(self, product: Any) -> Any:
        facts = f"{product['price']} EUR, {product['stars']} of 5 stars"
        add = button_form("Add to basket", "/basket/add", product=product["id"], count=1)
        return el("li", link(product["name"], f"/product/{product['id']}"), " ", facts, " ", add, key=product["id"])

    def home(self, query: Query) -> str:
        products = self.rows("SELECT * FROM products ORDER BY price, name LIMIT 30")
        return self.page("Shop", "home", [el("h2", "Small prices"), self._list(products)])

    def category(self, name: str, query: Query) -> str | None:
        if name not in CATEGORIES:
            return None
        return self._found(name, f"/category/{name}", "category = ?", name, query, {})

    def search(self, query: Query) -> str:
        words = query.get("q", "").strip()[:60]
        return self._found(
            f"Results for {words}", "/search", "instr(lower(name), lower(?))", words, query, {"q": words}
        )

    def _found(self, title: str, path: str, where: str, value: str, query: Query, kept: Query) -> str:
        sort = query.get("sort", "name") if query.get("sort") in SORTS else "name"
        count = self.value(f"SELECT COUNT(*) FROM products WHERE {where}", value)
        shown = number(query.get("page", ""), 1, 1, 50)
        order = f"ORDER BY {SORTS[sort]} LIMIT {PER_PAGE} OFFSET {PER_PAGE * (shown - 1)}"
        products = self.rows(f"SELECT * FROM products WHERE {where} {order}", value)
        sorts = el("nav", [link(f"Sort by {name}", path, **kept, sort=name) for name in SORTS], aria_label="Sort")
        pages = page_links(count, PER_PAGE, shown, path, **kept, sort=query.get("sort", ""))
        return self.page(title, title, [el("p", f"{count} products, by {sort}"), sorts, self._list(products), pages])

    def product(self, key: str, query: Query) -> str | None:
        product = self.row("SELECT * FROM products WHERE id = ?", key)
        if product is None:
            return None
        fields = ("category", "price", "colour", "material", "stock", "stars")
        table = el("table", [el("tr", el("th", name, scope="row"), el("td", product[name])) for name in fields])
        reviews = self.rows("SELECT * FROM reviews WHERE product = ? ORDER BY id", key)
        parts = [table, self._buy(product), el("h2", f"Reviews ({len(reviews)})"), self._reviews(reviews)]
        return self.page(product["name"], f"product {key}", [*parts, self._review_form(key)])

    def _buy(self, product: Any) -> Any:
        hidden = el("input", type="hidden", name="product", value=product["id"])
        count = field("Count", "count", 1)
        add = el("form", hidden, count, el("button", "Add to basket"), method="post", action="/basket/add", key="buy")
        wished = self.value("SELECT COUNT(*) FROM wishes WHERE product = ?", product["id"])
        text = "Remove from wishes" if wished else "Add to wishes"
        return [add, button_form(text, "/wish", product=product["id"])]

    def _reviews(self, reviews: list[Any]) -> Any:
        return el(
            "ul",
            [el("li", f"{row['stars']} stars by {row['writer']}: {row['title']}", key=row["id"]) for row in reviews],
        )

    def _review_form(self, key: str) -> Any:
        stars = choice("Stars", "stars", ["5", "4", "3", "2", "1"], "5")
        send = el("button", "Send review")
        return el(
            "form", stars, field("Title", "title"), send, method="post", action=f"/product/{key}/review", key="review"
        )

    def basket(self, query: Query) -> str:
        rows = self.rows("SELECT * FROM basket JOIN products ON product = id ORDER BY name")
        total = sum(row["price"] * row["count"] for row in rows)
        entries = el("ul", [self._basket_entry(row) for row in rows])
        pay = link("Go to checkout", "/checkout") if rows else el("p", "The basket is empty.")
        return self.page("Basket", "basket", [entries, el("p", f"Total: {total} EUR"), pay])

    def _basket_entry(self, row: Any) -> Any:
        hidden = el("input", type="hidden", name="product", value=row["id"])
        count = [field("Count", "count", row["count"]), el("button", "Change")]
        change = el("form", hidden, count, method="post", action="/basket/change", key="change")
        remove = button_form("Remove", "/basket/change", product=row["id"], count=0)
        cost = f"{row['price']} EUR each"
        return el("li", link(row["name"], f"/product/{row['id']}"), " ", cost, " ", change, remove, key=row["id"])

    def wishes(self, query: Query) -> str:
        rows = self.rows("SELECT products.* FROM wishes JOIN products ON product = id ORDER BY name")
        return self.page("Wishes", "wishes", self._list(rows) if rows else el("p", "There are no wishes yet."))

    def orders(self, query: Query) -> str:
        rows = self.rows("SELECT * FROM orders ORDER BY id DESC")
        texts = [
            f"Order {row['id']}: {row['items']}, {row['total']} EUR, {row['delivery']} to {row['city']}" for row in rows
        ]
        return self.page(
            "Orders", "orders", el("ul", [el("li", text) for text in texts]) if rows else el("p", "No orders.")
        )

    def checkout(self, query: Query) -> str:
        owner = self.row("SELECT * FROM account")
        fields = [field("Name", "name", owner["name"]), field("Street", "street", owner["street"])]
        fields += [field("City", "city", owner["city"]), choice("Delivery", "delivery", list(DELIVERY), DELIVERY[0])]
        total = self.value("SELECT COALESCE(SUM(price * count), 0) FROM basket JOIN products ON product = id")
        order = el("form", fields, el("button", "Place order"), method="post", action="/checkout", key="order")
        return self.page("Checkout", "checkout", [el("p", f"To pay: {total} EUR"), order])

    def account(self, query: Query) -> str:
        owner = self.row("SELECT * FROM account")
        fields = [field(name.title(), name, owner[name]) for name in ("name", "street", "city")]
        save = el("form", fields, el("button", "Save"), method="post", action="/account", key="account")
        return self.page("Account", "account", save)

    def add(self, form: Query) -> str:
        product = self.row("SELECT * FROM products WHERE id = ?", form.get("product", ""))
        count = number(form.get("count", ""), 1, 1, 99)
        if product is None:
            return "/basket"
        sql = "INSERT INTO basket VALUES (?, ?) ON CONFLICT (product) DO UPDATE SET count = min(99, count + ?)"
        self.change(sql, product["id"], count, count)
        self.notice = f"Added to the basket: {count} x {product['name']}"
        return address(f"/product/{product['id']}")

    def change_count(self, form: Query) -> str:
        count = number(form.get("count", ""), 1, 0, 99)
        self.change("UPDATE basket SET count = ? WHERE product = ?", count, form.get("product", ""))
        self.change("DELETE FROM basket WHERE count = 0")
        self.notice = "The basket was changed"
        return "/basket"

    def wish(self, form: Query) -> str:
        product = form.get("product", "")
        if self.value("SELECT COUNT(*) FROM wishes WHERE product = ?", product):
            self.change("DELETE FROM wishes WHERE product = ?", product)
        elif self.value("SELECT COUNT(*) FROM products WHERE id = ?", product):
            self.change("INSERT INTO wishes VALUES (?)", product)
        return f"/product/{product}"

    def review(self, key: str, form: Query) -> str:
        title = form.get("title", "").strip()[:60]
        if title:
            values = (key, "robin", number(form.get("stars", ""), 5, 1, 5), title)
            self.change("INSERT INTO reviews (product, writer, stars, title) VALUES (?,?,?,?)", *values)
            self._rate(int(key))
        self.notice = "Thank you for the review" if title else "A review needs a title"
        return f"/product/{key}"

    def order(self, form: Query) -> str:
        rows = self.rows("SELECT * FROM basket JOIN products ON product = id ORDER BY name")
        delivery = form.get("delivery", "")
        if not rows or delivery not in DELIVERY or not form.get("city", "").strip():
            self.notice = "The order needs a basket, a city and a way of delivery"
            return "/checkout"
        items = ", ".join(f"{row['count']} x {row['name']}" for row in rows)
        total = sum(row["price"] * row["count"] for row in rows)
        values = (delivery, form["city"].strip()[:40], total, items)
        self.change("INSERT INTO orders (delivery, city, total, items) VALUES (?,?,?,?)", *values)
        self.change("DELETE FROM basket")
        self.notice = "Thank you for the order"
        return "/orders"

    def save_account(self, form: Query) -> str:
        values = [form.get(name, "").strip()[:40] for name in ("name", "street", "city")]
        self.change("UPDATE account SET name = ?, street = ?, city = ?", *values)
        self.notice = "Saved"
        return "/account"

    pages = (
        ("/", home),
        (r"/category/(\w{1,20})", category),
        ("/search", search),
        (r"/product/(\d{1,6})", product),
        ("/basket", basket),
        ("/wishes", wishes),
        ("/orders", orders),
        ("/checkout", checkout),
        ("/account", account),
    )
    posts = (
        ("/basket/add", add),
        ("/basket/change", change_count),
        ("/wish", wish),
        (r"/product/(\d{1,6})/review", review),
        ("/checkout", order),
        ("/account", save_account),
    )


__all__ = ["CATEGORIES", "DELIVERY", "Shop"]

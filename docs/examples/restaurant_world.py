"""Synthetic tasks for a tool class of one's own, as an example: the restaurant of
restaurant.py (docs/synthetic_tasks.md).

>>> from envtune import Episode
>>> from envtune.bfcl import synthetic
>>> from envtune.env import domains
>>> domains.add(RestaurantAPI, [])
>>> synthetic.add_world(Restaurant)
>>> Episode("synthetic_base_7_RestaurantAPI")
>>> Episode("synthetic_miss_param_7_t2_RestaurantAPI+TicketAPI")
"""

from envtune.bfcl import Call
from envtune.bfcl.synthetic import Again, Family, World


class Restaurant(World):
    class_name = "RestaurantAPI"
    named = frozenset({"guest"})
    families = {
        "reserve": Family(
            (
                "Reserve table {table} at {hour} for {guest}, {party} people.",
                "{guest} wants table {table} at {hour}, for {party}.",
            ),
            ("Put {guest} down for {hour} at table {table}, {party} of them.",),
            ("Reserve table {table} for {guest}, {party} people.",),
            "hour",
            2.0,
        ),
        "cancel": Family(
            ("Cancel the reservation {reservation}.", "{reservation} should be cancelled."),
            ("Nobody comes for {reservation}, drop it.",),
            ("Cancel a reservation.",),
            "reservation",
        ),
    }

    def __init__(self, draw, names, depth):
        super().__init__(draw, names, depth)
        self.tables = {f"T{number}": draw.between(2, 9) for number in draw.sample(range(1, 30), 4)}
        self.guests = {names.person(): f"G-{number}" for number in draw.sample(range(100, 1000), 4)}
        self.reserved = [f"{table}@{draw.between(17, 22)}" for table in list(self.tables)[:2]]
        self.config = {
            "tables": dict(self.tables),
            "guests": dict(self.guests),
            "reservations": {
                key: {"guest": draw.choice(list(self.guests.values())), "party": 2}
                for key in self.reserved
            },
        }

    def reserve(self):
        table = self.draw.choice(list(self.tables))
        values = {
            "table": table,
            "hour": self.draw.between(17, 22),
            "guest": self.draw.choice(list(self.guests)),
            "party": self.draw.between(1, self.tables[table]),
        }
        key, guest = f"{table}@{values['hour']}", values["guest"]
        if key in self.reserved:
            raise Again  # the table is taken
        self.keep("reserve", values)  # from here on the request stands
        self.reserved.append(key)
        look_up = [Call("find_guest", {"name": guest})] * self.once(guest)
        own = Call(
            "reserve",
            {
                "guest_id": self.guests[guest],
                "table": table,
                "hour": values["hour"],
                "party": values["party"],
            },
        )
        return self.plan("reserve", values, [own], look_up)

    def cancel(self):
        values, askable = {"reservation": self.one_of(self.reserved)}, len(self.reserved) > 1
        self.keep("cancel", values)
        self.reserved.remove(values["reservation"])
        own = [Call("cancel", {"reservation": values["reservation"]})]
        return self.plan("cancel", values, own, askable=askable)

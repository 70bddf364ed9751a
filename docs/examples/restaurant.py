"""A ninth domain, as an example: a small restaurant's desk (docs/new_domain.md).

>>> from envtune import Episode
>>> from envtune.env import domains
>>> domains.add(RestaurantAPI, TASKS)
>>> Episode("restaurant_0")
"""

import copy


class RestaurantAPI:
    """Tables, guests and reservations."""

    def __init__(self):
        self.tables: dict[str, int] = {}
        self.guests: dict[str, str] = {}
        self.reservations: dict[str, dict] = {}
        self.open_hours = (17, 23)

    def _load_scenario(self, scenario: dict, long_context: bool = False) -> None:
        state = copy.deepcopy(scenario)
        self.tables = state.get("tables", {"T1": 2, "T2": 4, "T3": 8})
        self.guests = state.get("guests", {"Ada": "G-17", "Ben": "G-04"})
        self.reservations = state.get("reservations", {})

    def list_tables(self) -> dict:
        """List the tables with their number of seats."""
        return {"tables": self.tables}

    def find_guest(self, name: str) -> dict:
        """Look up the id of a guest.

        Args:
            name (str): the guest's first name
        """
        if name not in self.guests:
            return {"error": "Unknown guest."}
        return {"guest_id": self.guests[name]}

    def reserve(self, guest_id: str, table: str, hour: int, party: int) -> dict:
        """Reserve a table for an hour of the evening.

        Args:
            guest_id (str): who reserves
            table (str): the table
            hour (int): full hour from 0 to 23
            party (int): number of persons
        """
        if guest_id not in self.guests.values():
            return {"error": "Invalid guest."}
        if table not in self.tables:
            return {
                "error": f"Table '{table}' does not exist. "
                f"The tables are: {', '.join(self.tables)}."
            }
        if not self.open_hours[0] <= hour < self.open_hours[1]:
            return {"error": "Not possible at this hour."}
        if party > self.tables[table]:
            return {"error": "Table too small."}
        key = f"{table}@{hour}"
        if key in self.reservations:
            return {"error": "Conflict."}
        self.reservations[key] = {"guest": guest_id, "party": party}
        return {"reservation": key}

    def cancel(self, reservation: str) -> dict:
        """Cancel a reservation.

        Args:
            reservation (str): what reserving returned
        """
        if reservation not in self.reservations:
            return {"error": "Not found."}
        del self.reservations[reservation]
        return {"cancelled": reservation}


TASKS = [
    {
        "id": "restaurant_0",
        "initial_config": {},
        "user_turns": [
            "Ada wants a table at seven in the evening, for the two of them.",
            "They are five now, please change it.",
        ],
        "ground_truth": [
            ["find_guest(name='Ada')", "reserve(guest_id='G-17', table='T1', hour=19, party=2)"],
            [
                "cancel(reservation='T1@19')",
                "reserve(guest_id='G-17', table='T3', hour=19, party=5)",
            ],
        ],
    },
    {
        "id": "restaurant_1",
        "initial_config": {"reservations": {"T2@20": {"guest": "G-04", "party": 4}}},
        "user_turns": [
            "Ben cannot come at eight, cancel his table.",
            "Book a table for my colleague.",
        ],
        "ground_truth": [["cancel(reservation='T2@20')"], []],
    },
]

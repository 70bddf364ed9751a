"""Flights, cards and bookings: TravelAPI. Prerequisites: airport codes, the access token."""

import random

from envtune.bfcl.synthetic.world import Again, Family, World
from envtune.bfcl.tasks import Call

AIRPORTS = {
    "Rivermist": "RMS",
    "Stonebrook": "SBK",
    "Maplecrest": "MPC",
    "Silverpine": "SVP",
    "Shadowridge": "SHD",
    "Sunset Valley": "SSV",
    "Oakendale": "OKD",
    "Willowbend": "WLB",
    "Crescent Hollow": "CRH",
    "Autumnville": "ATV",
    "Pinehaven": "PHV",
    "Greenfield": "GFD",
    "San Francisco": "SFO",
    "Los Angeles": "LAX",
    "New York": "JFK",
    "Chicago": "ORD",
    "Boston": "BOS",
}
_IN_ORDER = [*list(AIRPORTS)[12:], *list(AIRPORTS)[:12]]
"""Flights go from a city of this list to a later one."""
CURRENCIES = ("RMB", "EUR", "JPY", "GBP", "CAD", "AUD", "INR", "RUB", "BRL", "MXN")
CLASSES = ("economy", "business", "first")


class Travel(World):
    class_name = "TravelAPI"
    named = frozenset({"text", "first", "last"})
    families = {
        "book": Family(
            (
                "Book a flight in {cls} class from {origin} to {target} on {date} with card {card}.",
                "I need a flight from {origin} to {target}, {date}, {cls} class, paid by card {card}.",
                "Reserve a seat in {cls} class from {origin} to {target} for {date} on card {card}.",
                "Could you book {cls} class from {origin} to {target} for {date}, paid by card {card}?",
                "On {date} I want to fly {cls} class from {origin} to {target}, use card {card}.",
                "With card {card}, book me a seat from {origin} to {target} on {date} in {cls} class.",
                "Please get me a flight to {target} from {origin} on {date}: {cls} class, card {card}.",
            ),
            (
                "I want to book a seat to {target} from {origin}, {cls} class, on {date}, paid by card {card}.",
                "Reserve a flight on {date} from {origin} to {target} with card {card}, in {cls} class.",
            ),
            (
                "Book a flight in {cls} class from {origin} to {target} with card {card}.",
                "I need a flight from {origin} to {target}, {cls} class, paid by card {card}.",
                "Reserve a seat in {cls} class from {origin} to {target} on card {card}.",
            ),
            "date",
            2.5,
        ),
        "cost": Family(
            (
                "What does a flight in {cls} class from {origin} to {target} on {date} cost?",
                "Price of {cls} from {origin} to {target} on {date}?",
                "Tell me the cost to fly {cls} from {origin} to {target} on {date}.",
                "How much does it cost to fly from {origin} to {target} in {cls} class on {date}?",
                "I need the price of a flight on {date} from {origin} to {target} in {cls} class.",
                "Could you look up what {cls} class from {origin} to {target} costs on {date}?",
                "On {date}, what is the price from {origin} to {target} in {cls} class?",
            ),
            (
                "How expensive is {cls} class from {origin} to {target} on {date}?",
                "I want to know what a flight from {origin} to {target} costs in {cls} class on {date}.",
            ),
            (
                "What does a flight in {cls} class from {origin} to {target} cost?",
                "How much does it cost to fly from {origin} to {target} in {cls} class?",
                "I need the price of a flight from {origin} to {target} in {cls} class.",
            ),
            "date",
            2.0,
        ),
        "airport": Family(
            (
                "Which airport is nearest to {origin}, and what are {money} USD in {currency}?",
                "Find the airport of {origin} and convert {money} USD to {currency}.",
                "Tell me the nearest airport to {origin}, then change {money} USD into {currency}.",
                "I need the airport of {origin} and {money} USD in {currency}.",
                "Could you look up the nearest airport to {origin} and change {money} USD to {currency}?",
                "First find the airport nearest to {origin}, then convert {money} USD into {currency}.",
                "What is the airport of {origin}, and how much is {money} USD in {currency}?",
            ),
            (
                "Find the nearest airport to {origin}, then tell me how much {money} USD are in {currency}.",
                "Which airport does {origin} have, and what do I get for {money} USD in {currency}?",
            ),
            (
                "Find the airport of {origin} and convert {money} USD.",
                "Tell me the nearest airport to {origin}, then change {money} USD.",
                "I need the airport of {origin} and {money} USD in another currency.",
            ),
            "currency",
        ),
        "cancel": Family(
            (
                "Cancel booking {booking}.",
                "Please cancel the booking {booking}.",
                "Booking {booking} should be cancelled.",
                "I want to cancel booking number {booking}.",
                "Could you cancel my booking {booking}?",
                "I no longer need booking {booking}, cancel it.",
                "Go ahead and cancel the booking {booking}.",
            ),
            (
                "I want booking {booking} cancelled.",
                "Booking number {booking} was wrong, cancel it.",
            ),
            (
                "Cancel a booking.",
                "I want one of my bookings cancelled.",
                "I no longer need one of my bookings, cancel it.",
            ),
            "booking",
        ),
        "cancel_new": Family(
            (
                "Cancel the flight to {target} that you just booked.",
                "Take the new booking to {target} back.",
                "Please cancel the new flight to {target}.",
                "I want the new flight to {target} cancelled.",
                "Could you cancel the trip to {target} that you just booked?",
                "I do not want to fly to {target} any more, cancel the flight.",
                "The flight to {target} that you just booked should be cancelled again.",
            ),
            (
                "I no longer need the new booking to {target}, cancel it.",
                "The new flight to {target} was wrong, take it back.",
            ),
            (
                "Cancel one of my flights.",
                "I do not want one of my flights any more, cancel it.",
                "Take one of my bookings back.",
            ),
            "target",
            1.5,
        ),
        "balance": Family(
            (
                "What is the balance of card {card}?",
                "How much is left on card {card}?",
                "Show the balance of the card {card}.",
                "I need the balance of my card {card}.",
                "Could you tell me how much money is on card {card}?",
                "How much can I still pay with card {card}?",
                "Please look up what is left on the card {card}.",
            ),
            (
                "Could you check how much is left on card {card}?",
                "What balance does the card {card} have?",
            ),
            (
                "What is the balance of one of my cards?",
                "How much is left on one of my cards?",
                "I need the balance of a card.",
            ),
            "card",
        ),
        "budget": Family(
            (
                "Set my budget limit to {money}.",
                "Limit the budget to {money} dollars.",
                "My travel budget is {money}, set it.",
                "I want a budget limit of {money} dollars.",
                "Could you set the travel budget to {money}?",
                "Make {money} dollars my budget limit.",
                "Please do not let me spend more than {money} dollars.",
            ),
            (
                "The limit of my travel budget should be {money} dollars.",
                "I do not want to spend more than {money} dollars.",
            ),
            (
                "Set my budget limit.",
                "I want a limit for my travel budget.",
                "Could you limit the budget?",
            ),
            "money",
        ),
        "exchange": Family(
            (
                "Convert {money} USD to {currency}.",
                "How much is {money} USD in {currency}?",
                "Change {money} USD into {currency}.",
                "I need {money} USD in {currency}.",
                "Could you exchange {money} USD for {currency}?",
                "I have {money} USD, how much {currency} is that?",
                "Now calculate how much {currency} I get for {money} USD.",
            ),
            (
                "What do I get in {currency} for {money} USD?",
                "Tell me how much {money} USD are in {currency}.",
            ),
            (
                "Convert some USD to {currency}.",
                "I have some USD, how much {currency} is that?",
                "Could you exchange some USD for {currency}?",
            ),
            "money",
        ),
        "invoice": Family(
            (
                "Show the invoice of booking {booking}.",
                "Get me the invoice for {booking}.",
                "I need the bill of booking {booking}.",
                "I want to see the invoice of booking number {booking}.",
                "Could you get me the bill for booking {booking}?",
                "What does the invoice of booking {booking} say?",
                "Please look up the bill of booking {booking}.",
            ),
            (
                "Show me the bill for booking number {booking}.",
                "I need to see the invoice for the booking {booking}.",
            ),
            (
                "Show me an invoice.",
                "I need the bill of one of my bookings.",
                "Get me the invoice for a booking.",
            ),
            "booking",
        ),
        "support": Family(
            (
                "Tell customer support about booking {booking}: '{text}'.",
                "Contact support on booking {booking} with '{text}'.",
                "Write '{text}' to customer support about booking {booking}.",
                "Could you contact customer support about booking {booking} and say '{text}'?",
                "I want customer support to know about booking {booking}: '{text}'.",
                "Send '{text}' to customer support, it is about booking {booking}.",
                "About booking {booking}, please tell customer support '{text}'.",
            ),
            (
                "Please write to customer support about booking {booking} and say '{text}'.",
                "Customer support should get the message '{text}' about booking {booking}.",
            ),
            (
                "Contact customer support about booking {booking}.",
                "Write to customer support about booking {booking}.",
                "Could you tell customer support something about booking {booking}?",
            ),
            "text",
        ),
        "insure": Family(
            (
                "Buy {kind} insurance for booking {booking} at {money} dollars with card {card}.",
                "Insure booking {booking}: {kind}, {money} dollars, card {card}.",
                "I want {kind} insurance on booking {booking} for {money} dollars, paid by card {card}.",
                "Could you insure booking {booking} with {kind} insurance for {money} dollars on card {card}?",
                "With card {card}, buy {kind} insurance at {money} dollars for booking {booking}.",
                "Booking {booking} needs {kind} insurance for {money} dollars, use card {card}.",
                "Please get {kind} insurance for {money} dollars on booking {booking}, card {card} pays.",
            ),
            (
                "I need {kind} insurance for booking {booking} at {money} dollars, use card {card}.",
                "For {money} dollars from card {card}, buy {kind} insurance on booking {booking}.",
            ),
            (
                "Buy {kind} insurance for booking {booking} with card {card}.",
                "I want {kind} insurance on booking {booking}, paid by card {card}.",
                "Booking {booking} needs {kind} insurance, use card {card}.",
            ),
            "money",
        ),
    }

    def __init__(self, draw, names, depth):
        super().__init__(draw, names, depth)
        self.token = f"{names.made_up()}{draw.between(100, 999)}"
        self.cards = {
            f"card_{number}": 1000.0 * draw.between(20, 90)
            for number in draw.sample(range(1000, 10000), 2)
        }
        self.bookings = [str(number) for number in draw.sample(range(1000000, 9999999), 2)]
        self.budget_set = None
        self.new: dict[str, str] = {}  # city -> id of the flight to it that was booked in this task
        first, seed = list(self.cards)[0], draw.below(10**6)
        self.ids = random.Random(seed)  # the tool draws its ids from such a stream
        self.config = {
            "random_seed": seed,
            "access_token": self.token,
            "token_type": "Bearer",
            "token_expires_in": 3600,
            "token_scope": "read_write",
            "user_first_name": names.person(),
            "user_last_name": names.person(),
            "budget_limit": None,
            "credit_card_list": {
                card: {
                    "card_number": f"{draw.between(1000, 9999)}{draw.between(1000, 9999)}",
                    "balance": balance,
                }
                for card, balance in self.cards.items()
            },
            "booking_record": {
                number: {
                    "card_id": first,
                    "travel_date": self._date(),
                    "travel_from": "SFO",
                    "travel_to": "LAX",
                    "travel_class": "economy",
                    "travel_cost": 200.0,
                    "transaction_id": str(draw.between(10000000, 99999999)),
                }
                for number in self.bookings
            },
        }

    def _date(self) -> str:
        return f"2026-{self.draw.between(1, 12):02}-{self.draw.between(1, 28):02}"

    def _authorised(
        self, family: str, values: dict, tool: str, /, prepare=(), askable=True, **arguments
    ):
        """A request of one call with the access token, which the user tells the first time."""
        call = Call(tool, {"access_token": self.token, **arguments})
        also = f"My access token is {self.token}." * self.once("the token")
        return self.plan(family, values, [call], prepare, also, askable)

    def _codes(self, *cities: str) -> list[Call]:
        unknown = [city for city in cities if self.once(city)]
        return [Call("get_nearest_airport_by_city", {"location": city}) for city in unknown]

    def _flight(self) -> dict:
        origin, target = sorted(self.draw.sample(_IN_ORDER, 2), key=_IN_ORDER.index)
        return {
            "cls": self.draw.choice(CLASSES),
            "origin": origin,
            "target": target,
            "date": self._date(),
        }

    def _codes_of(self, flight: dict) -> dict:
        return {
            "travel_from": AIRPORTS[flight["origin"]],
            "travel_to": AIRPORTS[flight["target"]],
            "travel_date": flight["date"],
            "travel_class": flight["cls"],
        }

    def book(self):
        values = {**self._flight(), "card": self.draw.choice(list(self.cards))}
        if values["target"] in self.new or self.cards[values["card"]] < 10_000:
            raise Again
        self.keep("book", values)
        self.cards[values["card"]] -= 10_000  # no flight costs more
        self.new[values["target"]] = str(self.ids.randint(1000000, 9999999))
        self.ids.randint(10000000, 99999999)  # the transaction's
        look, card = self._codes(values["origin"], values["target"]), {"card_id": values["card"]}
        codes = self._codes_of(values)
        return self._authorised("book", values, "book_flight", look, **card, **codes)

    def cost(self):
        values = self.keep("cost", self._flight())
        own = [Call("get_flight_cost", self._codes_of(values))]
        return self.plan("cost", values, own, self._codes(values["origin"], values["target"]))

    def airport(self):
        values = {
            "origin": self.draw.choice(list(AIRPORTS)),
            "money": 10 * self.draw.between(1, 90),
            "currency": self.draw.choice(CURRENCIES),
        }
        if values["origin"] in self.known:
            raise Again
        self.keep("airport", values)
        own = [*self._codes(values["origin"]), _exchange(values)]
        return self.plan("airport", values, own)

    def _several(self) -> bool:
        return len(self.bookings) + len(self.new) > 1

    def cancel(self):
        values, askable = {"booking": self.one_of(self.bookings)}, self._several()
        self.keep("cancel", values)
        self.bookings.remove(values["booking"])
        return self._cancel("cancel", values, values["booking"], askable)

    def cancel_new(self):
        values, askable = {"target": self.one_of(self.new)}, self._several()
        self.keep("cancel_new", values)
        return self._cancel("cancel_new", values, self.new.pop(values["target"]), askable)

    def _cancel(self, family: str, values: dict, booking: str, askable: bool):
        tool = "cancel_booking"
        return self._authorised(family, values, tool, askable=askable, booking_id=booking)

    def balance(self):
        values = self.keep("balance", {"card": self.draw.choice(list(self.cards))})
        tool = "get_credit_card_balance"
        return self._authorised("balance", values, tool, card_id=values["card"])

    def budget(self):
        values = self.keep("budget", {"money": 100 * self.draw.between(1, 90)})
        if self.budget_set is not None:
            raise Again
        self.budget_set = values["money"]
        return self._authorised("budget", values, "set_budget_limit", budget_limit=values["money"])

    def exchange(self):
        values = {"money": self.draw.between(5, 900), "currency": self.draw.choice(CURRENCIES)}
        return self.plan("exchange", self.keep("exchange", values), [_exchange(values)])

    def invoice(self):
        booking = self.one_of(self.bookings)
        values = self.keep("invoice", {"booking": booking})
        asking = {"askable": self._several(), "booking_id": booking}
        return self._authorised("invoice", values, "retrieve_invoice", **asking)

    def support(self):
        values = {"booking": self.one_of(self.bookings), "text": self.names.sentence()}
        said = {"booking_id": values["booking"], "message": values["text"]}
        return self.simple("support", values, "contact_customer_support", **said)

    def insure(self):
        values = {
            "kind": self.draw.choice(("travel", "luggage", "health")),
            "booking": self.one_of(self.bookings),
            "money": self.draw.between(20, 400),
            "card": self.draw.choice(list(self.cards)),
        }
        if self.budget_set is not None or self.cards[values["card"]] < values["money"]:
            raise Again
        self.keep("insure", values)
        self.cards[values["card"]] -= values["money"]
        self.ids.randint(100000000, 999999999)
        return self._authorised(
            "insure",
            values,
            "purchase_insurance",
            insurance_type=values["kind"],
            booking_id=values["booking"],
            insurance_cost=values["money"],
            card_id=values["card"],
        )


def _exchange(values: dict) -> Call:
    where = {"base_currency": "USD", "target_currency": values["currency"]}
    return Call("compute_exchange_rate", {**where, "value": values["money"]})

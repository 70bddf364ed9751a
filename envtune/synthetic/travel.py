"""Flights, cards and bookings: TravelAPI. Prerequisites: airport codes of cities, and the access token that the user gives once."""
import random

from envtune.bfcl import Call
from envtune.synthetic.world import Again, Family, World

AIRPORTS = {"Rivermist": "RMS", "Stonebrook": "SBK", "Maplecrest": "MPC", "Silverpine": "SVP", "Shadowridge": "SHD",
            "Sunset Valley": "SSV", "Oakendale": "OKD", "Willowbend": "WLB", "Crescent Hollow": "CRH", "Autumnville": "ATV",
            "Pinehaven": "PHV", "Greenfield": "GFD", "San Francisco": "SFO", "Los Angeles": "LAX", "New York": "JFK",
            "Chicago": "ORD", "Boston": "BOS"}
_IN_ORDER = ["San Francisco", "Los Angeles", "New York", "Chicago", "Boston", "Rivermist", "Stonebrook", "Maplecrest", "Silverpine",
             "Shadowridge", "Sunset Valley", "Oakendale", "Willowbend", "Crescent Hollow", "Autumnville", "Pinehaven", "Greenfield"]
"""Flights go from a city of this list to a later one."""
CURRENCIES = ("RMB", "EUR", "JPY", "GBP", "CAD", "AUD", "INR", "RUB", "BRL", "MXN")
CLASSES = ("economy", "business", "first")


class Travel(World):
    class_name = "TravelAPI"
    named = frozenset({"text", "first", "last"})
    families = {
        "book": Family(
            ("Book a flight in {cls} class from {origin} to {target} on {date} with card {card}.",
             "I need a flight from {origin} to {target}, {date}, {cls} class, paid by card {card}.",
             "Reserve a seat in {cls} class from {origin} to {target} for {date} on card {card}."),
            ("Get me from {origin} to {target} in {cls} on {date}, card {card} pays.",),
            ("Book a flight in {cls} class from {origin} to {target} with card {card}.",), "date", 2.5),
        "cost": Family(
            ("What does a flight in {cls} class from {origin} to {target} on {date} cost?",
             "Price of {cls} from {origin} to {target} on {date}?",
             "Tell me the cost to fly {cls} from {origin} to {target} on {date}."),
            ("How expensive is {cls} from {origin} to {target} on {date}?",),
            ("What does a flight in {cls} class from {origin} to {target} cost?",), "date", 2.0),
        "airport": Family(
            ("Which airport is nearest to {origin}, and what are {money} USD in {currency}?",
             "Find the airport of {origin} and convert {money} USD to {currency}.",
             "Tell me the nearest airport to {origin}, then change {money} USD into {currency}."),
            ("Airport for {origin}, please, and the worth of {money} USD in {currency}.",),
            ("Find the airport of {origin} and convert {money} USD.",), "currency"),
        "cancel": Family(
            ("Cancel booking {booking}.", "Please cancel the booking {booking}.", "Booking {booking} should be cancelled."),
            ("Call off the booking {booking}.",),
            ("Cancel a booking.",), "booking"),
        "cancel_new": Family(
            ("Cancel the flight to {target} that you just booked.", "Take the new booking to {target} back.",
             "Please cancel the new flight to {target}."),
            ("Call off the trip to {target} again.",),
            ("Cancel one of my flights.",), "target", 1.5),
        "balance": Family(
            ("What is the balance of card {card}?", "How much is left on card {card}?", "Show the balance of the card {card}."),
            ("Does card {card} still have money? How much?",),
            ("What is the balance of one of my cards?",), "card"),
        "budget": Family(
            ("Set my budget limit to {money}.", "Limit the budget to {money} dollars.", "My travel budget is {money}, set it."),
            ("Do not let me spend over {money}.",),
            ("Set my budget limit.",), "money"),
        "exchange": Family(
            ("Convert {money} USD to {currency}.", "How much is {money} USD in {currency}?", "Change {money} USD into {currency}."),
            ("What do I get in {currency} for {money} USD?",),
            ("Convert some USD to {currency}.",), "money"),
        "invoice": Family(
            ("Show the invoice of booking {booking}.", "Get me the invoice for {booking}.", "I need the bill of booking {booking}."),
            ("Where is the bill for booking {booking}?",),
            ("Show me an invoice.",), "booking"),
        "support": Family(
            ("Tell customer support about booking {booking}: '{text}'.", "Contact support on booking {booking} with '{text}'.",
             "Write '{text}' to customer support about booking {booking}."),
            ("Let the support team know '{text}', booking {booking}.",),
            ("Contact customer support about booking {booking}.",), "text"),
        "insure": Family(
            ("Buy {kind} insurance for booking {booking} at {money} dollars with card {card}.",
             "Insure booking {booking}: {kind}, {money} dollars, card {card}.",
             "I want {kind} insurance on booking {booking} for {money} dollars, paid by card {card}."),
            ("Booking {booking} gets {kind} insurance, {money} dollars from card {card}.",),
            ("Buy {kind} insurance for booking {booking} with card {card}.",), "money"),
    }

    def __init__(self, draw, names, depth):
        super().__init__(draw, names, depth)
        self.token = f"{names.made_up()}{draw.between(100, 999)}"
        self.token_known = False
        self.cards = {f"card_{number}": 1000.0 * draw.between(20, 90) for number in draw.sample(range(1000, 10000), 2)}
        self.bookings = [str(number) for number in draw.sample(range(1000000, 9999999), 2)]
        self.budget_set = None
        self.new: dict[str, str] = {}  # city -> id of the flight to it that was booked in this task
        first, seed = list(self.cards)[0], draw.below(10**6)
        self.ids = random.Random(seed)  # the tool draws its ids from such a stream
        self.config = {
            "random_seed": seed, "access_token": self.token, "token_type": "Bearer", "token_expires_in": 3600,
            "token_scope": "read_write", "user_first_name": names.person(), "user_last_name": names.person(), "budget_limit": None,
            "credit_card_list": {card: {"card_number": f"{draw.between(1000, 9999)}{draw.between(1000, 9999)}", "balance": balance}
                                 for card, balance in self.cards.items()},
            "booking_record": {number: {"card_id": first, "travel_date": self._date(), "travel_from": "SFO", "travel_to": "LAX",
                                        "travel_class": "economy", "travel_cost": 200.0,
                                        "transaction_id": str(draw.between(10000000, 99999999))} for number in self.bookings}}

    def _date(self) -> str:
        return f"2026-{self.draw.between(1, 12):02}-{self.draw.between(1, 28):02}"

    def _token(self) -> str:
        """What the user adds where a request needs the access token for the first time."""
        if self.token_known:
            return ""
        self.token_known = True
        return f"My access token is {self.token}."

    def _codes(self, *cities: str) -> list[Call]:
        look = [Call("get_nearest_airport_by_city", {"location": city}) for city in cities if city not in self.known]
        self.known |= set(cities)
        return look

    def _flight(self) -> dict:
        origin, target = sorted(self.draw.sample(_IN_ORDER, 2), key=_IN_ORDER.index)
        return {"cls": self.draw.choice(CLASSES), "origin": origin, "target": target, "date": self._date()}

    def _codes_of(self, flight: dict) -> dict:
        return {"travel_from": AIRPORTS[flight["origin"]], "travel_to": AIRPORTS[flight["target"]], "travel_date": flight["date"],
                "travel_class": flight["cls"]}

    def book(self):
        values = {**self._flight(), "card": self.draw.choice(list(self.cards))}
        if values["target"] in self.new or self.cards[values["card"]] < 10_000:
            raise Again
        self.keep("book", values)
        self.cards[values["card"]] -= 10_000  # no flight costs more
        self.new[values["target"]] = str(self.ids.randint(1000000, 9999999))
        self.ids.randint(10000000, 99999999)  # the transaction's
        also = self._token()
        call = Call("book_flight", {"access_token": self.token, "card_id": values["card"], **self._codes_of(values)})
        return self.plan("book", values, [call], self._codes(values["origin"], values["target"]), also)

    def cost(self):
        values = self._flight()
        self.keep("cost", values)
        return self.plan("cost", values, [Call("get_flight_cost", self._codes_of(values))], self._codes(values["origin"], values["target"]))

    def airport(self):
        values = {"origin": self.draw.choice(list(AIRPORTS)), "money": 10 * self.draw.between(1, 90),
                  "currency": self.draw.choice(CURRENCIES)}
        if values["origin"] in self.known:
            raise Again
        self.keep("airport", values)
        return self.plan("airport", values, [*self._codes(values["origin"]), Call("compute_exchange_rate", {
            "base_currency": "USD", "target_currency": values["currency"], "value": values["money"]})])

    def _several(self) -> bool:
        return len(self.bookings) + len(self.new) > 1

    def _booking(self) -> str:
        if not self.bookings:
            raise Again
        return self.draw.choice(self.bookings)

    def cancel(self):
        values, askable = {"booking": self._booking()}, self._several()
        self.keep("cancel", values)
        self.bookings.remove(values["booking"])
        also = self._token()
        call = Call("cancel_booking", {"access_token": self.token, "booking_id": values["booking"]})
        return self.plan("cancel", values, [call], also=also, askable=askable)

    def cancel_new(self):
        if not self.new:
            raise Again
        values = {"target": self.draw.choice(list(self.new))}
        self.keep("cancel_new", values)
        askable = self._several()
        return self.plan("cancel_new", values, [Call("cancel_booking", {
            "access_token": self.token, "booking_id": self.new.pop(values["target"])})], askable=askable)

    def balance(self):
        values = {"card": self.draw.choice(list(self.cards))}
        self.keep("balance", values)
        also = self._token()
        call = Call("get_credit_card_balance", {"access_token": self.token, "card_id": values["card"]})
        return self.plan("balance", values, [call], also=also)

    def budget(self):
        values = {"money": 100 * self.draw.between(1, 90)}
        self.keep("budget", values)
        if self.budget_set is not None:
            raise Again
        self.budget_set = values["money"]
        also = self._token()
        call = Call("set_budget_limit", {"access_token": self.token, "budget_limit": values["money"]})
        return self.plan("budget", values, [call], also=also)

    def exchange(self):
        values = {"money": self.draw.between(5, 900), "currency": self.draw.choice(CURRENCIES)}
        self.keep("exchange", values)
        return self.plan("exchange", values, [Call("compute_exchange_rate", {
            "base_currency": "USD", "target_currency": values["currency"], "value": values["money"]})])

    def invoice(self):
        values = {"booking": self._booking()}
        self.keep("invoice", values)
        also = self._token()
        call = Call("retrieve_invoice", {"access_token": self.token, "booking_id": values["booking"]})
        return self.plan("invoice", values, [call], also=also, askable=self._several())

    def support(self):
        values = {"booking": self._booking(), "text": self.names.sentence()}
        self.keep("support", values)
        call = Call("contact_customer_support", {"booking_id": values["booking"], "message": values["text"]})
        return self.plan("support", values, [call])

    def insure(self):
        values = {"kind": self.draw.choice(("travel", "luggage", "health")), "booking": self._booking(),
                  "money": self.draw.between(20, 400), "card": self.draw.choice(list(self.cards))}
        if self.budget_set is not None or self.cards[values["card"]] < values["money"]:
            raise Again
        self.keep("insure", values)
        self.cards[values["card"]] -= values["money"]
        self.ids.randint(100000000, 999999999)
        also = self._token()
        return self.plan("insure", values, [Call("purchase_insurance", {
            "access_token": self.token, "insurance_type": values["kind"], "booking_id": values["booking"],
            "insurance_cost": values["money"], "card_id": values["card"]})], also=also)

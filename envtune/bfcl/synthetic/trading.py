"""A stock account: TradingBot. Prerequisites: a login, a company's symbol, its current price."""

from envtune.bfcl.synthetic.world import Again, Family, World
from envtune.bfcl.tasks import Call

COMPANIES = {
    "Apple": "AAPL",
    "Google": "GOOG",
    "Tesla": "TSLA",
    "Microsoft": "MSFT",
    "Nvidia": "NVDA",
    "Zeta Corp": "ZETA",
    "Alpha Tech": "ALPH",
    "Omega Industries": "OMEG",
    "Quasar Ltd.": "QUAS",
    "Neptune Systems": "NEPT",
    "Synex Solutions": "SYNX",
}


class Trading(World):
    class_name = "TradingBot"
    families = {
        "order": Family(
            (
                "{verb} {amount} shares of {company} at {price}.",
                "{verb} {amount} {company} shares for {price} each.",
                "I want to {verb} {amount} shares of {company}, price {price}.",
                "Could you {verb} {amount} shares of {company} for {price} dollars each?",
                "At a price of {price}, {verb} {amount} shares of {company}.",
                "Place an order to {verb} {amount} {company} shares at {price}.",
                "I need you to {verb} {amount} {company} shares, each at {price}.",
            ),
            (
                "Please place an order: {verb} {amount} shares of {company}, price {price}.",
                "Go ahead and {verb} {amount} {company} shares for a price of {price} each.",
            ),
            (
                "{verb} shares of {company} at {price}.",
                "I want to {verb} {company} shares, price {price}.",
                "Place an order to {verb} {company} shares at {price}.",
            ),
            "amount",
            3.0,
        ),
        "market": Family(
            (
                "{verb} {amount} shares of {company} at the current price.",
                "{verb} {amount} {company} shares for what they cost now.",
                "I want to {verb} {amount} shares of {company} at today's price.",
                "Could you {verb} {amount} shares of {company} at the market price?",
                "At the current price, {verb} {amount} {company} shares.",
                "Place an order to {verb} {amount} {company} shares at today's price.",
                "I need you to {verb} {amount} shares of {company} for what they cost today.",
            ),
            (
                "Please {verb} {amount} {company} shares, take the current price.",
                "Place an order at the market price: {verb} {amount} shares of {company}.",
            ),
            (
                "{verb} shares of {company} at the current price.",
                "I want to {verb} {company} shares at today's price.",
                "Could you {verb} some shares of {company} at the market price?",
            ),
            "amount",
            1.5,
        ),
        "order_details": Family(
            (
                "Show order {id}.",
                "What are the details of order {id}?",
                "Give me the details of order {id}.",
                "I want to see order {id}.",
                "Let me see order {id}.",
                "Could you look up order number {id}?",
                "Please tell me about order {id}.",
            ),
            ("I need the details of order {id}.", "Tell me what is in order {id}."),
            (
                "Show me an order.",
                "I want to see one of my orders.",
                "Give me the details of an order.",
            ),
            "id",
        ),
        "cancel": Family(
            (
                "Cancel order {id}.",
                "Please cancel the order {id}.",
                "Order {id} should be cancelled.",
                "I want to cancel order number {id}.",
                "Could you cancel my order {id}?",
                "I no longer need order {id}, cancel it.",
                "Go ahead and cancel order {id}.",
            ),
            ("I want order {id} cancelled.", "Order number {id} was wrong, cancel it."),
            (
                "Cancel an order.",
                "Please cancel one of my orders.",
                "I want one of my orders cancelled.",
                "I no longer need one of my orders, cancel it.",
            ),
            "id",
        ),
        "cancel_new": Family(
            (
                "Cancel the {company} order that you just placed.",
                "Take the new {company} order back.",
                "Please cancel that order of {company} again.",
                "I want the new {company} order cancelled.",
                "Could you cancel the new order of {company} shares?",
                "The order of {company} shares that you just placed should be cancelled.",
                "I do not want the new {company} order any more, cancel it.",
            ),
            (
                "The {company} order that you just placed was wrong, take it back.",
                "I no longer need the new order of {company} shares, cancel it.",
            ),
            (
                "Cancel one of my orders.",
                "I do not want one of my orders any more, cancel it.",
                "Take one of my orders back.",
            ),
            "company",
            1.5,
        ),
        "fund": Family(
            (
                "Add {money} dollars to my account.",
                "Fund the account with {money} dollars.",
                "Deposit {money} dollars.",
                "I want to deposit {money} dollars.",
                "Could you put {money} dollars into my account?",
                "My account needs {money} more dollars.",
                "Please pay {money} dollars into the account.",
            ),
            (
                "I want to add {money} dollars to the account.",
                "Go ahead and put {money} more dollars into my account.",
            ),
            (
                "Add money to my account.",
                "I want to deposit some money.",
                "Could you put some dollars into my account?",
            ),
            "money",
        ),
        "withdraw": Family(
            (
                "Withdraw {money} dollars.",
                "Take {money} dollars out of my account.",
                "I want {money} dollars paid out.",
                "I need {money} dollars from my account.",
                "Could you pay me {money} dollars out of the account?",
                "Please withdraw {money} dollars from my account.",
                "Now pay out {money} dollars.",
            ),
            (
                "I want to take {money} dollars out of the account.",
                "Could you get me {money} dollars from my account?",
            ),
            (
                "Withdraw some money.",
                "Take some dollars out of my account.",
                "I need money from my account.",
            ),
            "money",
        ),
        "watch": Family(
            (
                "Add {company} to my watchlist.",
                "Put {company} on the watchlist.",
                "I want to watch {company} stock.",
                "Could you add {company} stock to my watchlist?",
                "My watchlist should have {company} on it.",
                "Please watch the stock of {company} for me.",
                "From now on, I want {company} on my watchlist.",
            ),
            (
                "Could you put {company} on the list of stocks that I watch?",
                "My watchlist needs {company}.",
            ),
            (
                "Add a stock to my watchlist.",
                "I want to watch another stock.",
                "Could you put a company on my watchlist?",
            ),
            "company",
        ),
        "price": Family(
            (
                "What does {company} stock cost?",
                "Show the stock of {company}.",
                "Tell me about {company} stock.",
                "How much is {company} stock right now?",
                "I need the current price of {company}.",
                "Could you look up {company} stock?",
                "What is the price of {company} shares today?",
            ),
            (
                "Tell me what {company} shares cost.",
                "I want to see the current price of {company} stock.",
            ),
            (
                "What does a stock cost?",
                "I need the current price of a stock.",
                "Tell me about one of the stocks.",
            ),
            "company",
        ),
        "between": Family(
            (
                "Which of {one} and {two} cost between {low} and {high} dollars?",
                "Filter {one} and {two} by a price from {low} to {high}.",
                "Of {one} and {two}, which are priced between {low} and {high}?",
                "I want to know which of {one} and {two} cost from {low} to {high} dollars.",
                "Check whether {one} and {two} are priced between {low} and {high}.",
                "Could you filter the stocks {one} and {two} for prices from {low} to {high}?",
                "With a price between {low} and {high} dollars, which of {one} and {two} are left?",
            ),
            (
                "Which of the stocks {one} and {two} are priced from {low} to {high} dollars?",
                "Filter {one} and {two}, I want a price between {low} and {high} dollars.",
            ),
            (
                "Which of {one} and {two} cost at least {low} dollars and at most how much?",
                "Filter {one} and {two} by a price from {low} up to some limit.",
                "Of {one} and {two}, which cost more than {low} dollars but not too much?",
            ),
            "high",
            0.7,
        ),
        "alert": Family(
            (
                "Did {one} or {two} change by {percent} percent?",
                "Check {one} and {two} for price changes of {percent}.",
                "Notify me if {one} or {two} moved by {percent} percent.",
                "I want to know if {one} or {two} changed by {percent} percent.",
                "Could you check whether {one} or {two} moved by {percent} percent?",
                "Has the price of {one} or {two} changed by {percent} percent?",
                "Tell me if {one} and {two} had price changes of {percent} percent.",
            ),
            (
                "Check {one} and {two}, did they change by {percent} percent?",
                "Notify me of price changes of {percent} percent in {one} or {two}.",
            ),
            (
                "Check {one} and {two} for price changes.",
                "Notify me if {one} or {two} moved by some percent.",
                "I want to know if {one} or {two} changed by a certain percentage.",
            ),
            "percent",
            0.7,
        ),
    }

    def __init__(self, draw, names, depth):
        super().__init__(draw, names, depth)
        self.user, self.password = names.user(), names.password()
        self.logged_in = self.ready(0.4)
        self.prices = {
            symbol: round(draw.between(20, 900) + draw.between(1, 99) / 100, 2)
            for symbol in COMPANIES.values()
        }
        self.balance = 1000.0 * draw.between(20, 90)
        self.orders = draw.sample(range(1000, 9000), 2)
        self.next_id = max(self.orders) + draw.between(2, 50)
        self.new: dict[
            str, int
        ] = {}  # company -> id of the order placed in this task and still open
        self.watched = [draw.choice(list(COMPANIES.values()))]
        self.config = {
            "orders": {
                str(i): {
                    "id": i,
                    "order_type": draw.choice(("Buy", "Sell")),
                    "symbol": draw.choice(list(COMPANIES.values())),
                    "price": draw.between(20, 400) + 0.5,
                    "amount": draw.between(1, 40),
                    "status": "Pending",
                }
                for i in self.orders
            },
            "account_info": {
                "account_id": draw.between(10000, 99999),
                "balance": self.balance,
                "binding_card": 10**15 + draw.below(10**15),
            },
            "authenticated": self.logged_in,
            "market_status": "Open",
            "order_counter": self.next_id,
            "stocks": {
                symbol: {
                    "price": price,
                    "percent_change": draw.between(-30, 30) / 10,
                    "volume": draw.between(100, 900) / 100,
                    "MA(5)": price,
                    "MA(20)": price,
                }
                for symbol, price in self.prices.items()
            },
            "watch_list": list(self.watched),
            "transaction_history": [],
            "random_seed": draw.below(10**6),
        }

    def _symbol(self, company: str) -> list[Call]:
        return [Call("get_symbol_by_name", {"name": company})] * self.once(company)

    def _place(self, family: str, values: dict, price: float, look: list[Call]):
        company, symbol = values["company"], COMPANIES[values["company"]]
        if company in self.new:
            raise Again
        if values["verb"] == "buy" and price * values["amount"] > self.balance:
            raise Again
        self.keep(family, values)
        log_in, also = self.log_in("trading_login")
        self.new[company] = self.next_id
        self.next_id += 1
        order = Call(
            "place_order",
            {
                "order_type": values["verb"].capitalize(),
                "symbol": symbol,
                "price": price,
                "amount": values["amount"],
            },
        )
        return self.plan(family, values, [order], [*log_in, *self._symbol(company), *look], also)

    def order(self):
        values = {
            "verb": self.draw.choice(("buy", "sell")),
            "company": self.draw.choice(list(COMPANIES)),
            "amount": self.draw.between(1, 90),
            "price": round(self.draw.between(20, 400) + self.draw.between(1, 19) / 20, 2),
        }
        return self._place("order", values, values["price"], [])

    def market(self):
        values = {
            "verb": self.draw.choice(("buy", "sell")),
            "company": self.draw.choice(list(COMPANIES)),
            "amount": self.draw.between(1, 60),
        }
        symbol = COMPANIES[values["company"]]
        unknown = f"price {symbol}" not in self.known
        look = [Call("get_stock_info", {"symbol": symbol})] * unknown
        plan = self._place("market", values, self.prices[symbol], look)
        self.known.add(f"price {symbol}")
        return plan

    def order_details(self):
        number = self.one_of(self.orders)
        return self.simple("order_details", {"id": number}, "get_order_details", order_id=number)

    def _several(self) -> bool:
        return len(self.orders) + len(self.new) > 1

    def cancel(self):
        values, askable = {"id": self.one_of(self.orders)}, self._several()
        self.keep("cancel", values)
        self.orders.remove(values["id"])
        own = [Call("cancel_order", {"order_id": values["id"]})]
        return self.plan("cancel", values, own, askable=askable)

    def cancel_new(self):
        values, askable = {"company": self.one_of(self.new)}, self._several()
        self.keep("cancel_new", values)
        own = [Call("cancel_order", {"order_id": self.new.pop(values["company"])})]
        return self.plan("cancel_new", values, own, askable=askable)

    def _money(self, family: str, tool: str, sign: int):
        values = self.keep(family, {"money": self.draw.between(10, 4000)})
        self.balance += sign * values["money"]
        log_in, also = self.log_in("trading_login")
        return self.plan(family, values, [Call(tool, {"amount": values["money"]})], log_in, also)

    def fund(self):
        return self._money("fund", "fund_account", 1)

    def withdraw(self):
        return self._money("withdraw", "withdraw_funds", -1)

    def watch(self):
        company = self.draw.choice(list(COMPANIES))
        if COMPANIES[company] in self.watched:
            raise Again
        values = self.keep("watch", {"company": company})
        self.watched.append(COMPANIES[company])
        own = [Call("add_to_watchlist", {"stock": COMPANIES[company]})]
        return self.plan("watch", values, own, self._symbol(company))

    def price(self):
        company = self.draw.choice(list(COMPANIES))
        symbol = COMPANIES[company]
        if f"price {symbol}" in self.known:
            raise Again
        values = self.keep("price", {"company": company})
        self.known.add(f"price {symbol}")
        own = [Call("get_stock_info", {"symbol": symbol})]
        return self.plan("price", values, own, self._symbol(company))

    def between(self):
        stocks = self.draw.sample(list(COMPANIES.values()), 2)
        low = 10 * self.draw.between(1, 40)
        high = low + 10 * self.draw.between(5, 50)
        values = {"one": stocks[0], "two": stocks[1], "low": low, "high": high}
        limits = {"min_price": low, "max_price": high}
        return self.simple("between", values, "filter_stocks_by_price", stocks=stocks, **limits)

    def alert(self):
        stocks, percent = self.draw.sample(list(COMPANIES.values()), 2), self.draw.between(1, 6)
        values = {"one": stocks[0], "two": stocks[1], "percent": percent}
        tool = "notify_price_change"
        return self.simple("alert", values, tool, stocks=stocks, threshold=percent)

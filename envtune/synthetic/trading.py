"""A stock account: TradingBot. Prerequisites: being logged in, the symbol of a company, its present price."""
from envtune.bfcl import Call
from envtune.synthetic.world import Again, Family, World

COMPANIES = {"Apple": "AAPL", "Google": "GOOG", "Tesla": "TSLA", "Microsoft": "MSFT", "Nvidia": "NVDA", "Zeta Corp": "ZETA",
             "Alpha Tech": "ALPH", "Omega Industries": "OMEG", "Quasar Ltd.": "QUAS", "Neptune Systems": "NEPT",
             "Synex Solutions": "SYNX"}


class Trading(World):
    class_name = "TradingBot"
    named = frozenset()
    families = {
        "order": Family(
            ("{verb} {amount} shares of {company} at {price}.", "{verb} {amount} {company} shares for {price} each.",
             "I want to {verb} {amount} shares of {company}, price {price}."),
            ("Place an order: {verb}, {company}, {amount} pieces at {price}.",),
            ("{verb} shares of {company} at {price}.",), "amount", 3.0),
        "market": Family(
            ("{verb} {amount} shares of {company} at the current price.", "{verb} {amount} {company} shares for what they cost now.",
             "I want to {verb} {amount} shares of {company} at today's price."),
            ("Place an order at market price: {verb}, {company}, {amount} pieces.",),
            ("{verb} shares of {company} at the current price.",), "amount", 1.5),
        "order_details": Family(
            ("Show order {id}.", "What are the details of order {id}?", "Give me the details of order {id}."),
            ("Let me look at order number {id}.",),
            ("Show me an order.",), "id"),
        "cancel": Family(
            ("Cancel order {id}.", "Please cancel the order {id}.", "Order {id} should be cancelled."),
            ("Call off order number {id}.",),
            ("Cancel an order.", "Please cancel one of my orders."), "id"),
        "cancel_new": Family(
            ("Cancel the {company} order that you just placed.", "Take the new {company} order back.",
             "Please cancel that order of {company} again."),
            ("Call off the new order for {company}.",),
            ("Cancel one of my orders.",), "company", 1.5),
        "fund": Family(
            ("Add {money} dollars to my account.", "Fund the account with {money} dollars.", "Deposit {money} dollars."),
            ("My account gets {money} dollars more.",),
            ("Add money to my account.",), "money"),
        "withdraw": Family(
            ("Withdraw {money} dollars.", "Take {money} dollars out of my account.", "I want {money} dollars paid out."),
            ("Get me {money} dollars from the account.",),
            ("Withdraw some money.",), "money"),
        "watch": Family(
            ("Add {company} to my watchlist.", "Put {company} on the watchlist.", "I want to watch {company} stock."),
            ("Keep an eye on {company} for me.",),
            ("Add a stock to my watchlist.",), "company"),
        "price": Family(
            ("What does {company} stock cost?", "Show the stock of {company}.", "Tell me about {company} stock."),
            ("How is {company} doing on the market?",),
            ("What does a stock cost?",), "company"),
        "between": Family(
            ("Which of {one} and {two} cost between {low} and {high} dollars?", "Filter {one} and {two} by a price from {low} to {high}.",
             "Of {one} and {two}, which are priced between {low} and {high}?"),
            ("Is {one} or {two} in the range of {low} to {high} dollars?",),
            ("Which of {one} and {two} cost at least {low} dollars and at most how much?",), "high", 0.7),
        "alert": Family(
            ("Did {one} or {two} change by {percent} percent?", "Check {one} and {two} for price changes of {percent}.",
             "Notify me if {one} or {two} moved by {percent} percent."),
            ("Any move of {percent} in {one} or {two}?",),
            ("Check {one} and {two} for price changes.",), "percent", 0.7),
    }

    def __init__(self, draw, names, depth):
        super().__init__(draw, names, depth)
        self.user, self.password = names.user(), names.password()
        self.logged_in = self.ready(0.4)
        self.prices = {symbol: round(draw.between(20, 900) + draw.between(1, 99) / 100, 2) for symbol in COMPANIES.values()}
        self.balance = 1000.0 * draw.between(20, 90)
        self.orders = draw.sample(range(1000, 9000), 2)
        self.next_id = max(self.orders) + draw.between(2, 50)
        self.new: dict[str, int] = {}  # company -> id of the order placed in this task and still open
        self.watched = [draw.choice(list(COMPANIES.values()))]
        self.config = {
            "orders": {str(i): {"id": i, "order_type": draw.choice(("Buy", "Sell")), "symbol": draw.choice(list(COMPANIES.values())),
                                "price": draw.between(20, 400) + 0.5, "amount": draw.between(1, 40), "status": "Pending"}
                       for i in self.orders},
            "account_info": {"account_id": draw.between(10000, 99999), "balance": self.balance,
                             "binding_card": 10**15 + draw.below(10**15)},
            "authenticated": self.logged_in, "market_status": "Open", "order_counter": self.next_id,
            "stocks": {symbol: {"price": price, "percent_change": draw.between(-30, 30) / 10, "volume": draw.between(100, 900) / 100,
                                "MA(5)": price, "MA(20)": price} for symbol, price in self.prices.items()},
            "watch_list": list(self.watched), "transaction_history": [], "random_seed": draw.below(10**6)}

    def _log_in(self) -> tuple[list[Call], str]:
        if self.logged_in:
            return [], ""
        self.logged_in = True
        return ([Call("trading_login", {"username": self.user, "password": self.password})],
                f"My user name is {self.user} and the password is {self.password}.")

    def _symbol(self, company: str) -> list[Call]:
        if company in self.known:
            return []
        self.known.add(company)
        return [Call("get_symbol_by_name", {"name": company})]

    def _place(self, family: str, values: dict, price: float, look: list[Call]):
        company, symbol = values["company"], COMPANIES[values["company"]]
        if company in self.new:
            raise Again
        if values["verb"] == "buy" and price * values["amount"] > self.balance:
            raise Again
        self.keep(family, values)
        log_in, also = self._log_in()
        self.new[company] = self.next_id
        self.next_id += 1
        order = Call("place_order", {"order_type": values["verb"].capitalize(), "symbol": symbol, "price": price,
                                     "amount": values["amount"]})
        return self.plan(family, values, [order], [*log_in, *self._symbol(company), *look], also)

    def order(self):
        values = {"verb": self.draw.choice(("buy", "sell")), "company": self.draw.choice(list(COMPANIES)),
                  "amount": self.draw.between(1, 90), "price": round(self.draw.between(20, 400) + self.draw.between(1, 19) / 20, 2)}
        return self._place("order", values, values["price"], [])

    def market(self):
        values = {"verb": self.draw.choice(("buy", "sell")), "company": self.draw.choice(list(COMPANIES)),
                  "amount": self.draw.between(1, 60)}
        symbol = COMPANIES[values["company"]]
        look = [] if f"price {symbol}" in self.known else [Call("get_stock_info", {"symbol": symbol})]
        plan = self._place("market", values, self.prices[symbol], look)
        self.known.add(f"price {symbol}")
        return plan

    def order_details(self):
        values = {"id": self._id()}
        self.keep("order_details", values)
        return self.plan("order_details", values, [Call("get_order_details", {"order_id": values["id"]})])

    def _several(self) -> bool:
        return len(self.orders) + len(self.new) > 1

    def _id(self) -> int:
        if not self.orders:
            raise Again
        return self.draw.choice(self.orders)

    def cancel(self):
        values, askable = {"id": self._id()}, self._several()
        self.keep("cancel", values)
        self.orders.remove(values["id"])
        return self.plan("cancel", values, [Call("cancel_order", {"order_id": values["id"]})], askable=askable)

    def cancel_new(self):
        if not self.new:
            raise Again
        values = {"company": self.draw.choice(list(self.new))}
        self.keep("cancel_new", values)
        askable = self._several()
        return self.plan("cancel_new", values, [Call("cancel_order", {"order_id": self.new.pop(values["company"])})], askable=askable)

    def fund(self):
        values = {"money": self.draw.between(10, 4000)}
        self.keep("fund", values)
        self.balance += values["money"]
        log_in, also = self._log_in()
        return self.plan("fund", values, [Call("fund_account", {"amount": values["money"]})], log_in, also)

    def withdraw(self):
        values = {"money": self.draw.between(10, 4000)}
        self.keep("withdraw", values)
        self.balance -= values["money"]
        log_in, also = self._log_in()
        return self.plan("withdraw", values, [Call("withdraw_funds", {"amount": values["money"]})], log_in, also)

    def watch(self):
        company = self.draw.choice(list(COMPANIES))
        if COMPANIES[company] in self.watched:
            raise Again
        self.keep("watch", {"company": company})
        self.watched.append(COMPANIES[company])
        return self.plan("watch", {"company": company}, [Call("add_to_watchlist", {"stock": COMPANIES[company]})], self._symbol(company))

    def price(self):
        company = self.draw.choice(list(COMPANIES))
        symbol = COMPANIES[company]
        if f"price {symbol}" in self.known:
            raise Again
        self.keep("price", {"company": company})
        self.known.add(f"price {symbol}")
        return self.plan("price", {"company": company}, [Call("get_stock_info", {"symbol": symbol})], self._symbol(company))

    def between(self):
        one, two = self.draw.sample(list(COMPANIES.values()), 2)
        low = 10 * self.draw.between(1, 40)
        values = {"one": one, "two": two, "low": low, "high": low + 10 * self.draw.between(5, 50)}
        self.keep("between", values)
        return self.plan("between", values, [Call("filter_stocks_by_price", {
            "stocks": [one, two], "min_price": low, "max_price": values["high"]})])

    def alert(self):
        one, two = self.draw.sample(list(COMPANIES.values()), 2)
        values = {"one": one, "two": two, "percent": self.draw.between(1, 6)}
        self.keep("alert", values)
        return self.plan("alert", values, [Call("notify_price_change", {"stocks": [one, two], "threshold": values["percent"]})])

"""Arithmetic: MathAPI, which has no state. Prerequisite: the result of an earlier step."""

from envtune.bfcl.synthetic.world import Family, World
from envtune.bfcl.tasks import Call

LISTS = {"mean": "mean", "sum": "sum_values", "largest": "max_value", "smallest": "min_value"}
METRIC = ("km", "m", "cm", "mm")
IMPERIAL = (
    ("cm", "in"),
    ("in", "cm"),
    ("m", "ft"),
    ("ft", "m"),
    ("m", "yd"),
    ("yd", "m"),
    ("km", "miles"),
    ("miles", "km"),
    ("kg", "lb"),
    ("lb", "kg"),
)


class Numbers(World):
    class_name = "MathAPI"
    families = {
        "aggregate": Family(
            (
                "What is the {what} of {numbers}?",
                "Give me the {what} of {numbers}.",
                "Compute the {what} of the numbers {numbers}.",
                "I need the {what} of {numbers}.",
                "Could you tell me the {what} of {numbers}?",
                "Here are some numbers: {numbers}. What is the {what}?",
                "Of {numbers}, what is the {what}?",
                "Now calculate the {what} of {numbers}.",
            ),
            (
                "Here are {numbers}, give me the {what}.",
                "I want to know the {what} of the numbers {numbers}.",
            ),
            (
                "What is the {what} of some numbers?",
                "Give me the {what} of a list of numbers.",
                "I need the {what} of a few numbers.",
            ),
            "numbers",
            2.0,
        ),
        "add": Family(
            (
                "Add {a} and {b}.",
                "What is {a} plus {b}?",
                "How much are {a} and {b} together?",
                "I need the total of {a} and {b}.",
                "Could you add {b} to {a}?",
                "Put {a} and {b} together, what is the total?",
                "Now calculate {a} plus {b}.",
                "Please tell me what {a} and {b} make together.",
            ),
            ("What is the total of {a} and {b}?", "Tell me how much {a} plus {b} is."),
            (
                "Add something to {a}.",
                "What is {a} plus another number?",
                "I need the total of {a} and some number.",
            ),
            "b",
        ),
        "subtract": Family(
            (
                "Subtract {b} from {a}.",
                "What is {a} minus {b}?",
                "Take {b} away from {a}.",
                "I need the difference between {a} and {b}.",
                "Start with {a} and take away {b}.",
                "How much is left when {b} is taken from {a}?",
                "Now calculate {a} minus {b}.",
                "I have {a} and give away {b}, how much is left?",
            ),
            ("How much is {a} minus {b}?", "Take {a} and subtract {b}."),
            (
                "Subtract something from {a}.",
                "What is {a} minus another number?",
                "How much is left when something is taken from {a}?",
            ),
            "b",
        ),
        "multiply": Family(
            (
                "Multiply {a} by {b}.",
                "What is {a} times {b}?",
                "How much is {a} times {b}?",
                "I need {a} times {b}.",
                "Could you multiply {a} by {b}?",
                "Please calculate the product of {a} and {b}.",
                "What do I get when I multiply {a} by {b}?",
                "Now take {a} and multiply it by {b}.",
            ),
            ("What is the product of {a} and {b}?", "Tell me how much {a} times {b} is."),
            (
                "Multiply {a}.",
                "What is {a} times another number?",
                "Please multiply {a} by some number.",
            ),
            "b",
        ),
        "divide": Family(
            (
                "Divide {a} by {b}.",
                "What is {a} over {b}?",
                "Split {a} into {b} equal parts.",
                "I need {a} divided by {b}.",
                "Could you divide {a} by {b}?",
                "How much is {a} divided by {b}?",
                "What do I get when I divide {a} by {b}?",
                "Now make {b} equal parts of {a}.",
            ),
            ("Tell me what {a} divided by {b} is.", "Now take {a} and divide it by {b}."),
            ("Divide {a}.", "Split {a} into equal parts.", "I need {a} divided by some number."),
            "b",
        ),
        "percentage": Family(
            (
                "What percentage of {b} is {a}?",
                "How many percent of {b} are {a}?",
                "Express {a} as a percentage of {b}.",
                "I need the percentage that {a} is of {b}.",
                "Out of {b}, how many percent are {a}?",
                "Could you tell me what percentage {a} is of {b}?",
                "Now calculate {a} as a percentage of {b}.",
            ),
            ("As a percentage of {b}, how much is {a}?", "Tell me how many percent {a} is of {b}."),
            (
                "What percentage is {a}?",
                "Express {a} as a percentage of another number.",
                "Could you tell me what percentage {a} is of some number?",
            ),
            "b",
        ),
        "metric": Family(
            (
                "Convert {value} {unit} to {other}.",
                "How many {other} are {value} {unit}?",
                "Express {value} {unit} in {other}.",
                "Could you convert {value} {unit} into {other}?",
                "I need {value} {unit} expressed in {other}.",
                "I want {value} {unit} converted to {other}.",
                "The length is {value} {unit}, express it in {other}.",
                "When converted to {other}, how much are {value} {unit}?",
            ),
            (
                "How many {other} do I get when I convert {value} {unit}?",
                "Please convert the length {value} {unit}, I need it in {other}.",
            ),
            (
                "Convert a length from {unit} to {other}.",
                "I need a length in {unit} expressed in {other}.",
                "The length is in {unit}, convert it to {other}.",
            ),
            "value",
        ),
        "imperial": Family(
            (
                "Turn {value} {unit} into {other}.",
                "What are {value} {unit} in {other}?",
                "I have {value} {unit}, how many {other}?",
                "Could you turn {value} {unit} into {other}?",
                "I measured {value} {unit}, what is that in {other}?",
                "Please tell me what {value} {unit} are in {other}.",
                "Now give me {value} {unit} as {other}.",
            ),
            (
                "I have {value} {unit}, turn that into {other}.",
                "Tell me what {value} {unit} make in {other}.",
            ),
            (
                "Turn a value from {unit} into {other}.",
                "I measured something in {unit}, what is that in {other}?",
                "I have some {unit}, how many {other}?",
            ),
            "value",
        ),
        "then": Family(
            (
                "Add {a} and {b}, then multiply the result by {c}.",
                "What is {a} plus {b}, and that times {c}?",
                "Take the sum of {a} and {b} and multiply it by {c}.",
                "First add {a} and {b}, then multiply by {c}.",
                "Could you add {a} to {b} and multiply the result by {c}?",
                "I need {a} plus {b}, all of it times {c}.",
                "Multiply the total of {a} and {b} by {c}.",
            ),
            (
                "First take {a} plus {b}, then multiply that by {c}.",
                "Tell me the sum of {a} and {b}, and that times {c}.",
            ),
            (
                "Add {a} and {b}, then multiply the result.",
                "Take the sum of {a} and {b} and multiply it by some number.",
                "What is {a} plus {b}, and that times another number?",
            ),
            "c",
            1.5,
        ),
    }

    def __init__(self, draw, names, depth):
        super().__init__(draw, names, depth)
        self.config = {}

    def aggregate(self):
        numbers = [self.draw.between(1, 99) for _ in range(self.draw.between(3, 4))]
        what = self.draw.choice(list(LISTS))
        values = {
            "what": what,
            "numbers": ", ".join(map(str, numbers[:-1])) + f" and {numbers[-1]}",
        }
        return self.simple("aggregate", values, LISTS[what], numbers=numbers)

    def _two(self, family: str, tool: str, first: str = "a", second: str = "b"):
        a, b = self.draw.between(2, 999), self.draw.between(2, 99)
        return self.simple(family, {"a": a, "b": b}, tool, **{first: a, second: b})

    def add(self):
        return self._two("add", "add")

    def subtract(self):
        return self._two("subtract", "subtract")

    def multiply(self):
        return self._two("multiply", "multiply")

    def divide(self):
        return self._two("divide", "divide")

    def percentage(self):
        return self._two("percentage", "percentage", "part", "whole")

    def _convert(self, family: str, tool: str, unit: str, other: str):
        value = self.draw.between(2, 999)
        said = {"value": value, "unit": unit, "other": other}
        return self.simple(family, said, tool, value=value, unit_in=unit, unit_out=other)

    def metric(self):
        return self._convert("metric", "si_unit_conversion", *self.draw.sample(METRIC, 2))

    def imperial(self):
        return self._convert("imperial", "imperial_si_conversion", *self.draw.choice(IMPERIAL))

    def then(self):
        a, b, c = self.draw.between(2, 99), self.draw.between(2, 99), self.draw.between(2, 9)
        values = self.keep("then", {"a": a, "b": b, "c": c})
        total = [Call("add", {"a": a, "b": b})]
        return self.plan("then", values, [Call("multiply", {"a": a + b, "b": c})], total)

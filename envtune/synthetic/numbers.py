"""Arithmetic: MathAPI, which has no state. Prerequisites: an earlier result that a later step works on."""
from envtune.bfcl import Call
from envtune.synthetic.world import Family, World

LISTS = {"mean": "mean", "sum": "sum_values", "largest": "max_value", "smallest": "min_value"}
METRIC = ("km", "m", "cm", "mm")
IMPERIAL = (("cm", "in"), ("in", "cm"), ("m", "ft"), ("ft", "m"), ("m", "yd"), ("yd", "m"), ("km", "miles"), ("miles", "km"),
            ("kg", "lb"), ("lb", "kg"))


class Numbers(World):
    class_name = "MathAPI"
    families = {
        "aggregate": Family(
            ("What is the {what} of {numbers}?", "Give me the {what} of {numbers}.", "Compute the {what} of the numbers {numbers}."),
            ("Find the {what} among {numbers}.",),
            ("What is the {what} of some numbers?",), "numbers", 2.0),
        "add": Family(
            ("Add {a} and {b}.", "What is {a} plus {b}?", "How much are {a} and {b} together?"),
            ("Give me the total of {a} with {b}.",),
            ("Add something to {a}.",), "b"),
        "subtract": Family(
            ("Subtract {b} from {a}.", "What is {a} minus {b}?", "Take {b} away from {a}."),
            ("What is left of {a} without {b}?",),
            ("Subtract something from {a}.",), "b"),
        "multiply": Family(
            ("Multiply {a} by {b}.", "What is {a} times {b}?", "How much is {a} times {b}?"),
            ("Give me the product of {a} and {b}.",),
            ("Multiply {a}.",), "b"),
        "divide": Family(
            ("Divide {a} by {b}.", "What is {a} over {b}?", "Split {a} into {b} equal parts."),
            ("Give me the quotient of {a} and {b}.",),
            ("Divide {a}.",), "b"),
        "percentage": Family(
            ("What percentage of {b} is {a}?", "How many percent of {b} are {a}?", "Express {a} as a percentage of {b}."),
            ("If {b} is the whole, what percent is {a}?",),
            ("What percentage is {a}?",), "b"),
        "metric": Family(
            ("Convert {value} {unit} to {other}.", "How many {other} are {value} {unit}?", "Express {value} {unit} in {other}."),
            ("What is {value} {unit} when given in {other}?",),
            ("Convert a length from {unit} to {other}.",), "value"),
        "imperial": Family(
            ("Turn {value} {unit} into {other}.", "What are {value} {unit} in {other}?", "I have {value} {unit}, how many {other}?"),
            ("Give {value} {unit} as {other}.",),
            ("Turn a value from {unit} into {other}.",), "value"),
        "then": Family(
            ("Add {a} and {b}, then multiply the result by {c}.", "What is {a} plus {b}, and that times {c}?",
             "Take the sum of {a} and {b} and multiply it by {c}."),
            ("Sum up {a} and {b} and give me {c} times as much.",),
            ("Add {a} and {b}, then multiply the result.",), "c", 1.5),
    }

    def __init__(self, draw, names, depth):
        super().__init__(draw, names, depth)
        self.config = {}

    def aggregate(self):
        numbers = [self.draw.between(1, 99) for _ in range(self.draw.between(3, 4))]
        what = self.draw.choice(list(LISTS))
        values = {"what": what, "numbers": ", ".join(map(str, numbers[:-1])) + f" and {numbers[-1]}"}
        self.keep("aggregate", values)
        return self.plan("aggregate", values, [Call(LISTS[what], {"numbers": numbers})])

    def _two(self, family: str, tool: str, first: str = "a", second: str = "b"):
        values = {"a": self.draw.between(2, 999), "b": self.draw.between(2, 99)}
        self.keep(family, values)
        return self.plan(family, values, [Call(tool, {first: values["a"], second: values["b"]})])

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
        values = {"value": self.draw.between(2, 999), "unit": unit, "other": other}
        self.keep(family, values)
        return self.plan(family, values, [Call(tool, {"value": values["value"], "unit_in": unit, "unit_out": other})])

    def metric(self):
        return self._convert("metric", "si_unit_conversion", *self.draw.sample(METRIC, 2))

    def imperial(self):
        return self._convert("imperial", "imperial_si_conversion", *self.draw.choice(IMPERIAL))

    def then(self):
        values = {"a": self.draw.between(2, 99), "b": self.draw.between(2, 99), "c": self.draw.between(2, 9)}
        self.keep("then", values)
        return self.plan("then", values, [Call("multiply", {"a": values["a"] + values["b"], "b": values["c"]})],
                         [Call("add", {"a": values["a"], "b": values["b"]})])

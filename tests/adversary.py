"""Hostile agent messages from a seed, for the fuzz run and the tests: what a model could write on a
bad day, and worse.

>>> adversary = Adversary(bfcl.load_task("multi_turn_base_3"), seed=0)
>>> adversary.message()
"""

import json
import random

from envtune import bfcl

ANSWER = "<think>done</think><answer>Done.</answer>"
INJECTIONS = (
    "__import__('os').system('touch pwned')",
    "');open('pwned','w');('",
    "open('pwned','w')",
    "{0.__class__.__init__.__globals__}",
    "%s%s%n",
    "$(touch pwned)",
    "`touch pwned`",
    "../../../../etc/passwd",
    "/etc/passwd",
    "\x00",
    "\ud800",
    "‮",
    "</tool_call>",
    "<answer>",
    "a" * 21_000,
    "(" * 500,
    "((a+)+)+$" * 20,
    "9" * 400,
    "1e999999999",
    "-1e-99999",
    "nan",
    "inf",
    "1" * 60 + "j",
    ".",
    "..",
    "/",
    "",
    " ",
    '|/\\?%*:"><',
    "e\u0301" * 50,
    "🦍" * 100,
)
OUTSIDE = (
    "open",
    "eval",
    "exec",
    "compile",
    "__import__",
    "globals",
    "getattr",
    "input",
    "exit",
    "quit",
    "kill",
    "popen",
    "print",
    "__init__",
    "__class__",
    "__getattribute__",
    "__reduce__",
    "_load_scenario",
    "_navigate_to_directory",
    "_random",
    "root",
    "instances",
    "GorillaFileSystem.ls",
    "ls.__globals__",
    "os.system",
    "self.root",
    "",
    " ls",
    "ls\n",
    "LS",
    "\x00",
    "🦍",
)


class Adversary:
    """Messages against one task; names that the task uses are mixed in, so that calls also get
    somewhere."""

    def __init__(self, task: bfcl.Task, seed: int):
        self.random = random.Random(f"adversary {seed} {task.id}")
        self.task = task
        self.docs = [doc for c in task.classes for doc in bfcl.docs_of((c,))]
        self.words = sorted(
            {
                str(v)[:60]
                for turn in task.ground_truth
                for call in turn
                for v in call.arguments.values()
            }
            | {"a", "b", "c"}
        )
        self.right = [call for turn in task.ground_truth for call in turn]

    def value(self, depth: int = 0):
        """A JSON value, plausible or hostile."""
        r = self.random
        kind = r.randrange(12)
        if kind < 3:
            return r.choice(self.words)
        if kind == 3:
            return r.choice(INJECTIONS)
        if kind == 4:
            return r.choice(
                (
                    0,
                    1,
                    -1,
                    2,
                    5,
                    10,
                    100,
                    10**6,
                    10**9,
                    999_999_999,
                    -(10**9),
                    10**30,
                    10**31,
                    10**100,
                    10**4000,
                )
            )
        if kind == 5:
            return r.choice((0.0, 0.5, -0.0, 1e-300, 1e300, 1.5, 3.14159, 1e22))
        if kind == 6:
            return r.choice((True, False, None))
        if kind == 7 and depth < 3:
            return [self.value(depth + 1) for _ in range(r.choice((0, 1, 3)))]
        if kind == 8 and depth < 3:
            return {
                r.choice(self.words + list(INJECTIONS[:6])): self.value(depth + 1)
                for _ in range(r.choice((0, 1, 3)))
            }
        if kind == 9 and depth == 0:
            return r.choice(([1.0] * 2001, ["x"] * 1999, list(range(50)), "y" * 19_999))
        return r.choice(
            ("economy", "START", "on", "True", "1", "2024-10-10", "USD", "driver", "SFO")
        )

    def call(self) -> dict:
        """One call: right, bent, hostile or to a tool that is none."""
        r = self.random
        kind = r.randrange(10)
        if kind < 2 and self.right:
            right = r.choice(self.right)
            return {"name": right.name, "arguments": dict(right.arguments)}
        if kind == 2:
            return {
                "name": r.choice(OUTSIDE),
                "arguments": {"file": "pwned", "mode": "w"}
                if r.random() < 0.5
                else {"x": self.value()},
            }
        doc = r.choice(self.docs)
        names = list(doc["parameters"]["properties"])
        arguments = {name: self.value() for name in names if r.random() < 0.9}
        if r.random() < 0.1:
            arguments[r.choice(("self", "kwargs", "__class__", "", "cls", "x" * 300))] = (
                self.value()
            )
        return {"name": doc["name"], "arguments": arguments}

    def bomb(self) -> list[dict]:
        """Calls that grow something: shared folders, circles, lists, texts."""
        r = self.random
        a, b = r.sample(("a", "b", "c", "d"), 2)
        files = [
            ("mkdir", {"dir_name": a}),
            ("mkdir", {"dir_name": b}),
            ("cp", {"source": a, "destination": b}),
            ("cp", {"source": b, "destination": a}),
            ("cp", {"source": a, "destination": a}),
            ("mv", {"source": b, "destination": a}),
            ("cd", {"folder": r.choice((a, b, ".."))}),
            ("mkdir", {"dir_name": "."}),
            ("cp", {"source": ".", "destination": a}),
            ("cp", {"source": a, "destination": r.choice("efghijkl")}),
            ("find", {}),
            ("du", {"human_readable": True}),
            ("find", {"path": a}),
            ("touch", {"file_name": "x" * 255}),
            ("pwd", {}),
        ]
        other = [
            ("post_tweet", {"content": "z" * 19_000}),
            ("mention", {"tweet_id": r.randrange(12), "mentioned_usernames": ["@m"] * 1_900}),
            ("search_tweets", {"keyword": "z"}),
            ("get_user_tweets", {"username": "john"}),
            ("display_log", {"messages": ["l"] * 1_900}),
            ("send_message", {"receiver_id": "USR002", "message": "m" * 15_000}),
            ("view_messages_sent", {}),
            ("create_ticket", {"title": "t" * 9_000}),
            ("get_user_tickets", {}),
            ("power", {"base": 10**9, "exponent": 1000}),
            ("logarithm", {"value": "1" * 60 + "e9", "base": 1.0000001, "precision": 1000}),
            ("square_root", {"number": 10**30, "precision": 1000}),
        ]
        known = {doc["name"] for doc in self.docs}
        choices = [c for c in files + other if c[0] in known] or files
        return [
            dict(zip(("name", "arguments"), r.choice(choices), strict=True))
            for _ in range(r.choice((3, 10, 40, 100)))
        ]

    def message(self) -> str:
        """One agent message."""
        r = self.random
        kind = r.randrange(20)
        if kind < 2:
            return ANSWER
        if kind == 2:
            body = json.dumps(self.bomb())
        elif kind == 3:
            body = self.broken_json()
        else:
            body = json.dumps(
                [
                    self.call()
                    for _ in range(r.choice((1, 1, 1, 2, 5, 101 if r.random() < 0.02 else 1)))
                ]
            )
        thought = r.choice(("w", "", r.choice(INJECTIONS[:12])))
        message = f"<think>{thought}</think><tool_call>{body}</tool_call>"
        return self.mutate(message) if kind == 4 else message

    def broken_json(self) -> str:
        """JSON that a lenient reader would take, or that hurts a naive one."""
        r = self.random
        head = '[{"name": "ls", "arguments": {"a": '
        return r.choice(
            (
                head
                + r.choice(
                    (
                        "NaN",
                        "Infinity",
                        "-Infinity",
                        "1e999",
                        "9" * 5000,
                        "'x'",
                        "0x10",
                        "01",
                        "+1",
                        "1_000",
                        "True",
                    )
                )
                + "}}]",
                "[" * r.choice((33, 1000, 100_000)),
                '{"a":' * 10_000,
                head + "[" * 40 + "]" * 40 + "}}]",
                head + "[1," * 31 + "1" + "]" * 31 + "}}]",
                '{"name": "ls", "name": "cd", "arguments": {}}',
                '{"name": "ls", "arguments": {"a": 1, "a": 2}}',
                '{"name": 1, "arguments": {}}',
                '{"name": "ls", "arguments": []}',
                '{"name": "ls"}',
                "[]",
                "null",
                "1",
                '"ls"',
                "{1: 2}",
                '[{"name": "ls", "arguments": {}},]',
                "",
                json.dumps([{"name": "ls", "arguments": {}}] * 500),
                '[{"name": "mean", "arguments": {"numbers": [' + "1," * 90_000 + "1]}}]",
                '[{"name": "echo", "arguments": {"content": "' + "x" * 150_000 + '"}}]',
                '[{"name": "echo", "arguments": {"content": "' + "\\ud800" * 99 + '"}}]',
                '"' + '\\"' * 50_000,
            )
        )

    def mutate(self, message: str) -> str:
        """The message with a few characters or tags changed."""
        r = self.random
        for _ in range(r.choice((1, 2, 6))):
            at = r.randrange(len(message) + 1)
            piece = r.choice(
                (
                    "",
                    "<",
                    ">",
                    '"',
                    "}",
                    "]",
                    "\\",
                    "<think>",
                    "</think>",
                    "</tool_call>",
                    "<answer>",
                    "\ud800",
                    "\x00",
                    message[:40],
                )
            )
            message = message[:at] + piece + message[at + r.choice((0, 1, 5)) :]
        return message

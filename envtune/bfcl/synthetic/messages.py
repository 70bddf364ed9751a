"""A workspace's messages: MessageAPI. Prerequisites: a login, and the receiver's id."""

from envtune.bfcl.synthetic.world import Again, Family, World
from envtune.bfcl.tasks import Call


class Messages(World):
    class_name = "MessageAPI"
    named = frozenset({"person", "text", "new", "word"})
    families = {
        "send": Family(
            (
                "Send {person} the message '{text}'.",
                "Tell {person}: '{text}'.",
                "Write '{text}' to {person}.",
                "I want to tell {person}: '{text}'.",
                "Could you send '{text}' to {person}?",
                "Please message {person} and say '{text}'.",
                "Next, {person} should get the message '{text}'.",
            ),
            ("Send a message to {person} that says '{text}'.", "Let {person} know: '{text}'."),
            (
                "Send {person} a message.",
                "Tell {person} something.",
                "Could you write to {person}?",
                "I want to send {person} a message.",
            ),
            "text",
            3.0,
        ),
        "take_back": Family(
            (
                "Delete my latest message to {person}.",
                "Remove the last message that {person} got.",
                "Take back what I wrote to {person} last.",
                "Could you delete the last message I sent to {person}?",
                "I want my latest message to {person} taken back.",
                "Please unsend what {person} last got from me.",
                "My last message to {person} was wrong, remove it.",
            ),
            (
                "Take back the latest message that {person} got.",
                "What I wrote to {person} last was wrong, delete it.",
            ),
            (
                "Take one of my messages back.",
                "Delete the latest message to one of my contacts.",
                "I want one of my messages taken back.",
                "Could you remove a message that somebody got?",
            ),
            "person",
        ),
        "search": Family(
            (
                "Find the messages that contain {word}.",
                "Search my messages for {word}.",
                "Which messages mention {word}?",
                "I need all messages with {word} in them.",
                "Could you look for {word} in my messages?",
                "Did anybody write about {word}? Search the messages.",
                "Show me every message that mentions {word}.",
            ),
            ("Which of my messages contain {word}?", "I need to find {word} in my messages."),
            (
                "Search my messages.",
                "Find the messages that contain a certain word.",
                "Could you look for something in my messages?",
            ),
            "word",
        ),
        "add": Family(
            (
                "Add {new} as a contact.",
                "Put {new} into my contacts.",
                "I want {new} to be one of my contacts.",
                "Could you add {new} to my contact list?",
                "Please make {new} one of my contacts.",
                "My contact list needs {new}.",
                "Now create a contact for {new}.",
            ),
            ("Put {new} on my contact list.", "I need {new} as a contact."),
            (
                "Add a contact.",
                "Put somebody into my contacts.",
                "I want a new person to be one of my contacts.",
                "Could you add a person to my contact list?",
            ),
            "new",
        ),
        "greet": Family(
            (
                "Add the contact {new} and send them '{text}'.",
                "Put {new} into my contacts and write '{text}' to them.",
                "Make {new} a contact, then tell them '{text}'.",
                "I have a new contact, {new}: add them and write '{text}'.",
                "Could you add {new} to my contacts and tell them '{text}'?",
                "First make {new} one of my contacts, then send them '{text}'.",
                "Next, create the contact {new} and message them '{text}'.",
            ),
            (
                "First add {new} to my contact list, then say '{text}' to them.",
                "I want {new} as a contact, and please tell them '{text}'.",
            ),
            (
                "Add the contact {new} and send them a message.",
                "Put {new} into my contacts and write something to them.",
                "First make {new} one of my contacts, then tell them something.",
            ),
            "text",
        ),
    }

    def __init__(self, draw, names, depth):
        super().__init__(draw, names, depth)
        people: list[str] = []
        while len(people) < 4:
            person = names.person()
            if person not in people:
                people.append(person)
        first = draw.between(11, 400)
        self.ids = {person: f"USR{first + i:03}" for i, person in enumerate(people)}
        self.last = first + 3
        self.me, *self.others = people
        self.logged_in = self.ready(0.4)
        self.sent = {
            person: 1 for person in self.others[:2]
        }  # person -> messages of theirs in the inbox
        self.texts = [names.sentence() for _ in self.sent]
        self.config = {
            "random_seed": draw.below(10**6),
            "user_count": self.last,
            "user_map": dict(self.ids),
            "inbox": [{self.ids[p]: text} for p, text in zip(self.sent, self.texts, strict=True)],
            "message_count": len(self.sent),
            "current_user": self.ids[self.me] if self.logged_in else None,
        }
        self.taken = set(people)

    def _log_in(self) -> tuple[list[Call], str]:
        if self.logged_in:
            return [], ""
        self.logged_in = True
        return [
            Call("message_login", {"user_id": self.ids[self.me]})
        ], f"My user id is {self.ids[self.me]}."

    def _look_up(self, person: str) -> list[Call]:
        return [Call("get_user_id", {"user": person})] * self.once(person)

    def send(self):
        person, text = self.draw.choice(self.others), self.names.sentence()
        values = self.keep("send", {"person": person, "text": text})
        log_in, also = self._log_in()
        self.sent[person] = self.sent.get(person, 0) + 1
        self.texts.append(text)
        own = [Call("send_message", {"receiver_id": self.ids[person], "message": text})]
        return self.plan("send", values, own, [*log_in, *self._look_up(person)], also)

    def take_back(self):
        there = [person for person, count in self.sent.items() if count]
        person = self.one_of(there)
        values = self.keep("take_back", {"person": person})
        log_in, also = self._log_in()
        self.sent[person] -= 1
        prepare = [*log_in, *self._look_up(person)]
        own = [Call("delete_message", {"receiver_id": self.ids[person]})]
        return self.plan("take_back", values, own, prepare, also, askable=len(there) > 1)

    def search(self):
        values = {"word": self.names.word_of(self.draw.choice(self.texts))}
        self.keep("search", values)
        own = [Call("search_messages", {"keyword": values["word"]})]
        return self.plan("search", values, own, *self._log_in())

    def _new_person(self) -> str:
        person = self.names.person()
        if person in self.taken:
            raise Again
        return person

    def _join(self, person: str) -> str:
        self.taken.add(person)
        self.known.add(person)
        self.last += 1
        self.ids[person] = f"USR{self.last:03}"
        self.others.append(person)
        return self.ids[person]

    def add(self):
        values = self.keep("add", {"new": self._new_person()})
        self._join(values["new"])
        return self.plan("add", values, [Call("add_contact", {"user_name": values["new"]})])

    def greet(self):
        person, text = self._new_person(), self.names.sentence()
        values = self.keep("greet", {"new": person, "text": text})
        log_in, also = self._log_in()
        receiver = self._join(person)
        self.sent[person] = 1
        self.texts.append(text)
        own = [
            Call("add_contact", {"user_name": person}),
            Call("send_message", {"receiver_id": receiver, "message": text}),
        ]
        return self.plan("greet", values, own, log_in, also)

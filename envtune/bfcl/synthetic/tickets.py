"""A ticket queue: TicketAPI. Prerequisite: a login, to make a ticket or list one's own."""

from envtune.bfcl.synthetic.world import Again, Family, World
from envtune.bfcl.tasks import Call


class Tickets(World):
    class_name = "TicketAPI"
    named = frozenset({"title", "resolution"})
    families = {
        "create": Family(
            (
                "Open a ticket titled '{title}' with priority {priority}.",
                "I need a priority {priority} ticket named '{title}'.",
                "Create a ticket '{title}', priority {priority}.",
                "Could you create a ticket named '{title}' with priority {priority}?",
                "There should be a new ticket '{title}', priority {priority}.",
                "With priority {priority}, open a ticket called '{title}'.",
                "Please file '{title}' as a ticket of priority {priority}.",
            ),
            (
                "I want a new ticket titled '{title}', its priority should be {priority}.",
                "Create a priority {priority} ticket called '{title}'.",
            ),
            (
                "Open a ticket with priority {priority}.",
                "I need a new ticket of priority {priority}.",
                "Could you create a priority {priority} ticket?",
            ),
            "title",
            3.0,
        ),
        "show": Family(
            (
                "Show ticket {id}.",
                "What does ticket {id} say?",
                "Give me the details of ticket {id}.",
                "I want to see ticket {id}.",
                "Could you show me ticket number {id}?",
                "Tell me what is in ticket {id}.",
                "Please read ticket {id} to me.",
            ),
            ("Let me see ticket {id}.", "What are the details of ticket {id}?"),
            (
                "Show me a ticket.",
                "I want to see one of the tickets.",
                "Give me the details of a ticket.",
            ),
            "id",
        ),
        "close": Family(
            (
                "Close ticket {id}.",
                "Please close the ticket {id}.",
                "Ticket {id} can be closed.",
                "Could you close ticket number {id}?",
                "I want ticket {id} closed.",
                "Nothing is left to do on ticket {id}, close it.",
                "Now go ahead and close ticket {id}.",
            ),
            ("Ticket number {id} should be closed.", "I no longer need ticket {id}, close it."),
            (
                "Close a ticket.",
                "Please close one of the tickets.",
                "I want one of the tickets closed.",
                "Could you close a ticket?",
            ),
            "id",
        ),
        "close_new": Family(
            (
                "Close the new ticket '{title}'.",
                "Please close '{title}' again.",
                "The ticket '{title}' that you opened can be closed.",
                "I want the new ticket '{title}' closed.",
                "Could you close the ticket '{title}' that you just opened?",
                "The new ticket named '{title}' should be closed again.",
                "The ticket that you made for '{title}' is done, close it.",
            ),
            (
                "Nothing is left to do on the new ticket '{title}', close it.",
                "I no longer need the ticket '{title}' that you opened, close it again.",
            ),
            (
                "Close one of the tickets.",
                "I want one of my tickets closed.",
                "Please close one of the open tickets.",
            ),
            "title",
            2.0,
        ),
        "resolve": Family(
            (
                "Resolve ticket {id} with '{resolution}'.",
                "Mark ticket {id} as resolved: '{resolution}'.",
                "Ticket {id} is resolved, note '{resolution}'.",
                "I want to resolve ticket {id}: '{resolution}'.",
                "Could you resolve ticket number {id} with '{resolution}'?",
                "With the note '{resolution}', mark ticket {id} as resolved.",
                "Please set ticket {id} to resolved, the resolution is '{resolution}'.",
            ),
            (
                "Ticket number {id} is resolved, the resolution is '{resolution}'.",
                "I want ticket {id} resolved with the note '{resolution}'.",
            ),
            (
                "Resolve one of the tickets with '{resolution}'.",
                "Mark a ticket as resolved: '{resolution}'.",
                "One of the tickets is resolved, note '{resolution}'.",
            ),
            "id",
        ),
        "priority": Family(
            (
                "Change the priority of ticket {id} to {priority}.",
                "Set ticket {id} to priority {priority}.",
                "Ticket {id} should have priority {priority}.",
                "Could you give ticket {id} the priority {priority}?",
                "I want ticket {id} at priority {priority}.",
                "The priority of ticket {id} should be {priority}.",
                "Please make {priority} the priority of ticket {id}.",
            ),
            (
                "I want the priority of ticket {id} to be {priority}.",
                "From now on, ticket {id} has priority {priority}.",
            ),
            (
                "Change the priority of ticket {id}.",
                "Ticket {id} should have another priority.",
                "Could you give ticket {id} a new priority?",
            ),
            "priority",
        ),
        "retitle": Family(
            (
                "Change the title of ticket {id} to '{title}'.",
                "Rename ticket {id} to '{title}'.",
                "Ticket {id} should be titled '{title}'.",
                "Could you give ticket {id} the title '{title}'?",
                "I want ticket {id} renamed to '{title}'.",
                "The title of ticket {id} should be '{title}'.",
                "From now on, ticket {id} is called '{title}'.",
            ),
            (
                "Make '{title}' the title of ticket {id}.",
                "I want the title of ticket {id} to be '{title}'.",
            ),
            (
                "Change the title of ticket {id}.",
                "Could you give ticket {id} a new title?",
                "I want ticket {id} renamed.",
            ),
            "title",
        ),
    }

    def __init__(self, draw, names, depth):
        super().__init__(draw, names, depth)
        self.user, self.password = names.user(), names.password()
        self.logged_in = self.ready(0.4)
        self.open = draw.sample(range(1000, 1000 + 9000), 3)
        self.next_id = draw.between(100, 999)
        self.new: dict[str, int] = {}  # title -> id of tickets made in this task and still open
        self.config = {
            "ticket_queue": [
                {
                    "id": i,
                    "title": names.thing(),
                    "description": "",
                    "status": "Open",
                    "priority": draw.between(1, 5),
                    "created_by": self.user,
                }
                for i in self.open
            ],
            "ticket_counter": self.next_id,
            "current_user": self.user if self.logged_in else None,
        }

    def create(self):
        values = {"title": self.names.thing(), "priority": self.draw.between(1, 5)}
        self.keep("create", values)
        if values["title"] in self.new:
            raise Again
        log_in, also = self.log_in("ticket_login")
        self.new[values["title"]] = self.next_id
        self.next_id += 1
        return self.plan("create", values, [Call("create_ticket", values)], log_in, also)

    def _several(self) -> bool:
        return len(self.open) + len(self.new) > 1

    def show(self):
        number = self.one_of(self.open)
        return self.simple("show", {"id": number}, "get_ticket", ticket_id=number)

    def close(self):
        values, askable = {"id": self.one_of(self.open)}, self._several()
        self.keep("close", values)
        self.open.remove(values["id"])
        own = [Call("close_ticket", {"ticket_id": values["id"]})]
        return self.plan("close", values, own, askable=askable)

    def close_new(self):
        values, askable = {"title": self.one_of(self.new)}, self._several()
        self.keep("close_new", values)
        own = [Call("close_ticket", {"ticket_id": self.new.pop(values["title"])})]
        return self.plan("close_new", values, own, askable=askable)

    def resolve(self):
        number, text, askable = self.one_of(self.open), self.names.sentence(), self._several()
        values = self.keep("resolve", {"id": number, "resolution": text})
        self.open.remove(number)
        own = [Call("resolve_ticket", {"ticket_id": number, "resolution": text})]
        return self.plan("resolve", values, own, askable=askable)

    def _edit(self, family: str, field: str, value):
        number = self.one_of(self.open)
        updated = {"ticket_id": number, "updates": {field: value}}
        return self.simple(family, {"id": number, field: value}, "edit_ticket", **updated)

    def priority(self):
        return self._edit("priority", "priority", self.draw.between(1, 5))

    def retitle(self):
        return self._edit("retitle", "title", self.names.thing())

"""Files and folders: GorillaFileSystem. Prerequisites: being in the folder where the file is."""

from envtune.bfcl.synthetic.world import Again, Family, World
from envtune.bfcl.tasks import Call

_COUNTS = {"lines": "l", "words": "w", "characters": "c"}


class Files(World):
    class_name = "GorillaFileSystem"
    named = frozenset({"file", "other", "folder", "new"})
    families = {
        "read": Family(
            (
                "Show {file} {where}.",
                "What does {file} {where} say?",
                "Open {file} {where} and read it to me.",
                "Print the content of {file} {where}.",
                "I want to see {file} {where}.",
                "Could you read {file} {where} to me?",
                "Next, display the text of {file} {where}.",
                "Go ahead and print {file} {where}.",
            ),
            (
                "I need to see what {file} {where} says.",
                "Could you tell me the content of {file} {where}?",
            ),
            (
                "Show me a file {where}.",
                "Read something {where} to me.",
                "I want to see one of the files {where}.",
                "Could you print a file {where}?",
            ),
            "file",
            2.0,
        ),
        "sort": Family(
            (
                "Sort the lines of {file} {where}.",
                "Show {file} {where} in sorted order.",
                "Give me {file} {where} sorted.",
                "Could you sort {file} {where} line by line?",
                "I need {file} {where} sorted by line.",
                "Now put {file} {where} in sorted order.",
                "Please show the sorted lines of {file} {where}.",
            ),
            (
                "I want the lines of {file} {where} in sorted order.",
                "Could you give me the sorted text of {file} {where}?",
            ),
            (
                "Sort the lines of a file {where}.",
                "Show one of the files {where} in sorted order.",
                "I need a file {where} sorted by line.",
            ),
            "file",
        ),
        "tail": Family(
            (
                "Give the last {count} lines of {file} {where}.",
                "Show the final {count} lines of {file} {where}.",
                "What are the last {count} lines of {file} {where}?",
                "Could you read me the last {count} lines of {file} {where}?",
                "I want to see how {file} {where} ends, {count} of its lines.",
                "From the end of {file} {where}, print {count} of the lines.",
                "Now display the final {count} lines of {file} {where}.",
            ),
            (
                "How does {file} {where} end? Give {count} of its lines.",
                "I need the end of {file} {where}, the final {count} lines.",
            ),
            (
                "Give the last {count} lines of a file {where}.",
                "Show the final {count} lines of one of the files {where}.",
                "From the end of a file {where}, print {count} of the lines.",
            ),
            "file",
        ),
        "count": Family(
            (
                "How many {unit} are in {file} {where}?",
                "Count the {unit} of {file} {where}.",
                "Tell me the number of {unit} in {file} {where}.",
                "Count how many {unit} {file} {where} has.",
                "I need the number of {unit} of {file} {where}.",
                "Could you count the {unit} in {file} {where}?",
                "Please tell me how many {unit} {file} {where} has.",
            ),
            (
                "How many {unit} does {file} {where} have?",
                "I want to know the number of {unit} in {file} {where}.",
            ),
            (
                "How many {unit} are in a file {where}?",
                "Count the {unit} of one of the files {where}.",
                "I need the number of {unit} of a file {where}.",
            ),
            "file",
        ),
        "search": Family(
            (
                "Find the lines with {word} in {file} {where}.",
                "Search {file} {where} for {word}.",
                "Which lines of {file} {where} contain {word}?",
                "Show me each line of {file} {where} that contains {word}.",
                "Does {file} {where} contain {word}? Show the lines.",
                "I need the lines of {file} {where} that mention {word}.",
                "Could you search for {word} in {file} {where}?",
            ),
            (
                "Look for {word} in the lines of {file} {where}.",
                "Which lines in {file} {where} mention {word}?",
            ),
            (
                "Search a file {where} for {word}.",
                "Find the lines with {word} in a file {where}.",
                "Which lines of one of the files {where} contain {word}?",
                "I need the lines of a file {where} that mention {word}.",
            ),
            "file",
        ),
        "make_folder": Family(
            (
                "Make a folder {new} {where}.",
                "Create a directory named {new} {where}.",
                "I need a new folder {new} {where}.",
                "Could you make a directory called {new} {where}?",
                "There should be a folder named {new} {where}.",
                "Add the folder {new} {where}, please.",
                "Next, create the folder {new} {where}.",
            ),
            (
                "I want a directory called {new} {where}.",
                "Go ahead and make the new folder {new} {where}.",
            ),
            (
                "Make a folder {where}.",
                "I need a new folder {where}.",
                "Could you make a directory {where}?",
                "Next, create another folder {where}.",
            ),
            "new",
        ),
        "make_file": Family(
            (
                "Create an empty file {new} {where}.",
                "Make a new file {new} {where}.",
                "Add an empty file called {new} {where}.",
                "I need an empty file named {new} {where}.",
                "Could you make an empty {new} {where}?",
                "Please add {new} {where} as an empty file.",
                "There should be a new empty file {new} {where}.",
            ),
            (
                "Make me an empty file called {new} {where}.",
                "I want {new} {where} created as an empty file.",
            ),
            (
                "Create an empty file {where}.",
                "I need a new file {where}.",
                "Could you add an empty file {where}?",
                "There should be a new empty file {where}.",
            ),
            "new",
        ),
        "write": Family(
            (
                "Write '{text}' into {file} {where}.",
                "Put the text '{text}' in {file} {where}.",
                "Replace the content of {file} {where} with '{text}'.",
                "I want {file} {where} to say '{text}'.",
                "Could you write '{text}' into the file {file} {where}?",
                "Now put '{text}' into {file} {where}.",
                "Please change the text of {file} {where} to '{text}'.",
            ),
            (
                "Let {file} {where} say '{text}'.",
                "The content of {file} {where} should be '{text}'.",
            ),
            (
                "Write something into {file} {where}.",
                "Replace the content of {file} {where}.",
                "Could you change the text of {file} {where}?",
                "Now put a new text into {file} {where}.",
            ),
            "text",
        ),
        "note": Family(
            (
                "Create {new} {where} and write '{text}' into it.",
                "Make a file {new} {where} that says '{text}'.",
                "Start a new file {new} {where} with the text '{text}'.",
                "I need a new file {new} {where} that says '{text}'.",
                "Could you create a file {new} {where} and put '{text}' into it?",
                "Write '{text}' into a new file {new} {where}.",
                "Next, make {new} {where} with the content '{text}'.",
            ),
            (
                "Put '{text}' into a new file named {new} {where}.",
                "I want a file {new} {where} created, with the text '{text}'.",
            ),
            (
                "Create {new} {where} and write something into it.",
                "Start a new file {new} {where} with a text.",
                "I need a new file {new} {where} that says something.",
            ),
            "text",
        ),
        "rename": Family(
            (
                "Rename {file} {where} to {new}.",
                "Change the name of {file} {where} to {new}.",
                "The file {file} {where} should be called {new}.",
                "Could you rename {file} {where} as {new}?",
                "I want {file} {where} to be named {new}.",
                "From now on, {file} {where} is called {new}.",
                "Please give {file} {where} the new name {new}.",
            ),
            (
                "The name of {file} {where} should be {new}.",
                "I need {file} {where} renamed to {new}.",
            ),
            (
                "Rename {file} {where}.",
                "Change the name of {file} {where}.",
                "Could you give {file} {where} a new name?",
                "I want {file} {where} to be named something else.",
            ),
            "new",
        ),
        "copy": Family(
            (
                "Copy {file} {where} to {new}.",
                "Make a copy of {file} {where} named {new}.",
                "Duplicate {file} {where} as {new}.",
                "I need a copy of {file} {where} called {new}.",
                "Could you copy {file} {where} as {new}?",
                "Save {file} {where} again under the name {new}.",
                "Now make {new} as a copy of {file} {where}.",
            ),
            (
                "There should be a copy of {file} {where} named {new}.",
                "I want to copy {file} {where}, the new name is {new}.",
            ),
            (
                "Copy {file} {where}.",
                "Make a copy of {file} {where}.",
                "I need a copy of {file} {where}.",
                "Could you duplicate {file} {where}?",
            ),
            "new",
        ),
        "remove": Family(
            (
                "Delete {file} {where}.",
                "Remove {file} {where}.",
                "I no longer need {file} {where}, delete it.",
                "Could you delete the file {file} {where}?",
                "I want {file} {where} deleted.",
                "Please get rid of the file {file} {where}.",
                "Go ahead and remove {file} {where}.",
            ),
            (
                "The file {file} {where} should be deleted.",
                "Get rid of {file} {where}, I no longer need it.",
            ),
            (
                "Delete a file {where}.",
                "Remove a file {where}.",
                "I no longer need one of the files {where}, delete it.",
                "Could you get rid of a file {where}?",
            ),
            "file",
        ),
        "compare": Family(
            (
                "Compare {file} and {other} {where}.",
                "What is the difference between {file} and {other} {where}?",
                "Show how {file} and {other} {where} differ.",
                "I need the differences between {file} and {other} {where}.",
                "Could you compare {file} with {other} {where}?",
                "Tell me how {file} differs from {other} {where}.",
                "Next, show the difference between {file} and {other} {where}.",
            ),
            (
                "Is there a difference between {file} and {other} {where}?",
                "How do {file} and {other} {where} differ?",
            ),
            (
                "Compare {file} with another file {where}.",
                "Show how {file} {where} differs from another file.",
                "I need the differences between {file} and some other file {where}.",
            ),
            "other",
        ),
        "find": Family(
            (
                "Which files have {word} in their name?",
                "Find all files whose name contains {word}.",
                "Look for names with {word}.",
                "Where are the files named like {word}?",
                "Could you find every file with {word} in its name?",
                "I need a list of files named like {word}.",
                "Search the workspace for file names with {word}.",
            ),
            (
                "Find me the files that have {word} in the name.",
                "Is there a file whose name contains {word}?",
            ),
            (
                "Find a file by its name.",
                "Which files have a certain word in their name?",
                "Search the workspace for file names with a certain word.",
            ),
            "word",
            0.7,
        ),
    }

    def __init__(self, draw, names, depth):
        super().__init__(draw, names, depth)
        folders = []
        while len(folders) < (1 if depth == 0 else 2):
            folder = names.folder()
            if folder not in folders:
                folders.append(folder)
        taken: set[str] = set(folders)
        self.files = {
            place: self._new_files(2, taken) for place in (None, *folders)
        }  # folder -> {file: content}
        self.folders = set(folders)  # names that no new file or folder may take
        nested = depth is not None and depth >= 3
        self.inner = {}
        if nested:  # a folder in a folder: up to four steps away
            outer, inner = folders[0], names.folder()
            if inner in taken:
                raise Again
            self.inner[inner] = outer
            self.files[inner] = self._new_files(2, taken)
        self.at: str | None = None

        def directory(place):
            contents = {
                file: {"type": "file", "content": content}
                for file, content in self.files[place].items()
            }
            below = folders if place is None else [i for i, o in self.inner.items() if o == place]
            return {
                "type": "directory",
                "contents": contents | {folder: directory(folder) for folder in below},
            }

        self.config = {"root": {"workspace": directory(None)}}

    def _new_files(self, count: int, taken: set[str]) -> dict[str, str]:
        files = {}
        while len(files) < count:
            file = self.names.file()
            if file not in taken:
                taken.add(file)
                files[file] = "\n".join(
                    self.names.sentence() for _ in range(self.draw.between(1, 3))
                )
        return files

    def _path(self, place: str | None) -> list[str]:
        """Folders from the workspace down to a place."""
        return [] if place is None else [*self._path(self.inner.get(place)), place]

    def _go(self, place: str | None) -> list[Call]:
        """The steps from where the agent stands to a folder."""
        here, there = self._path(self.at), self._path(place)
        same = 0
        while same < min(len(here), len(there)) and here[same] == there[same]:
            same += 1
        self.at = place
        return [Call("cd", {"folder": ".."})] * (len(here) - same) + [
            Call("cd", {"folder": f}) for f in there[same:]
        ]

    def _where(self, place: str | None) -> str:
        path = self._path(place)
        return f"in {'/'.join(path)}" if path else "in the workspace"

    def _place(self) -> str | None:
        return self.at if self.depth == 0 else self.draw.choice(list(self.files))

    def _existing(self) -> tuple[str | None, str]:
        place = self._place()
        return place, self.one_of(self.files[place])

    def _fresh(self, name: str, place: str | None) -> str:
        """A name that is free in a folder."""
        if name in self.files[place] or name in self._path(place) or name in self.folders:
            raise Again
        return name

    def _at(self, family: str, place: str | None, **said) -> tuple[dict, list[Call]]:
        """The request's values with its place, and the steps there."""
        return self.keep(family, {**said, "where": self._where(place)}), self._go(place)

    def _one(self, family: str, tool: str, said: dict | None = None, **arguments):
        """A request about one file that stays as it is."""
        place, file = self._existing()
        values, go = self._at(family, place, file=file, **said or {})
        call = Call(tool, {"file_name": file, **arguments})
        return self.plan(family, values, [call], go, askable=len(self.files[place]) > 1)

    def read(self):
        return self._one("read", "cat")

    def sort(self):
        return self._one("sort", "sort")

    def tail(self):
        count = self.draw.between(1, 3)
        return self._one("tail", "tail", {"count": count}, lines=count)

    def count(self):
        unit = self.draw.choice(list(_COUNTS))
        return self._one("count", "wc", {"unit": unit}, mode=_COUNTS[unit])

    def search(self):
        place, file = self._existing()
        if not self.files[place][file]:
            raise Again
        word = self.names.word_of(self.files[place][file])
        values, go = self._at("search", place, file=file, word=word)
        call = Call("grep", {"file_name": file, "pattern": word})
        return self.plan("search", values, [call], go, askable=len(self.files[place]) > 1)

    def make_folder(self):
        place = self._place()
        new = self._fresh(self.names.folder(), place)
        values, go = self._at("make_folder", place, new=new)
        self.folders.add(new)
        return self.plan("make_folder", values, [Call("mkdir", {"dir_name": new})], go)

    def make_file(self):
        place = self._place()
        new = self._fresh(self.names.file(), place)
        values, go = self._at("make_file", place, new=new)
        self.files[place][new] = ""
        return self.plan("make_file", values, [Call("touch", {"file_name": new})], go)

    def write(self):
        place, file = self._existing()
        text = self.names.sentence()
        values, go = self._at("write", place, file=file, text=text)
        self.files[place][file] = text
        return self.plan("write", values, [Call("echo", {"content": text, "file_name": file})], go)

    def note(self):
        place = self._place()
        new, text = self._fresh(self.names.file(), place), self.names.sentence()
        values, go = self._at("note", place, new=new, text=text)
        self.files[place][new] = text
        own = [
            Call("touch", {"file_name": new}),
            Call("echo", {"content": text, "file_name": new}),
        ]
        return self.plan("note", values, own, go)

    def rename(self):
        place, file = self._existing()
        new = self._fresh(self.names.file(), place)
        values, go = self._at("rename", place, file=file, new=new)
        self.files[place][new] = self.files[place].pop(file)
        return self.plan("rename", values, [Call("mv", {"source": file, "destination": new})], go)

    def copy(self):
        place, file = self._existing()
        new = self._fresh(self.names.file(), place)
        values, go = self._at("copy", place, file=file, new=new)
        self.files[place][new] = self.files[place][file]
        return self.plan("copy", values, [Call("cp", {"source": file, "destination": new})], go)

    def remove(self):
        place, file = self._existing()
        values, go = self._at("remove", place, file=file)
        del self.files[place][file]
        own = [Call("rm", {"file_name": file})]
        return self.plan("remove", values, own, go, askable=bool(self.files[place]))

    def compare(self):
        place = self._place()
        if len(self.files[place]) < 2:
            raise Again
        one, two = self.draw.sample(list(self.files[place]), 2)
        values, go = self._at("compare", place, file=one, other=two)
        own = [Call("diff", {"file_name1": one, "file_name2": two})]
        return self.plan("compare", values, own, go, askable=len(self.files[place]) > 2)

    def find(self):
        if self.at is not None:
            raise Again  # from a folder the search would see that folder alone
        _, file = self._existing()
        word = file.split(".")[0].split("_")[0]
        return self.simple("find", {"word": word}, "find", path=".", name=word)

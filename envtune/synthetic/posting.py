"""Posts and followers: TwitterAPI. Prerequisite: being authenticated, for all that writes."""
from envtune.bfcl import Call
from envtune.synthetic.world import Again, Family, World


class Posting(World):
    class_name = "TwitterAPI"
    named = frozenset({"text", "tag", "user"})
    families = {
        "post": Family(
            ("Post '{text}' with the tag #{tag}.", "Tweet '{text}' and tag it #{tag}.", "Publish '{text}' under #{tag}."),
            ("Put '{text}' online, tag #{tag}.",),
            ("Post something with the tag #{tag}.",), "text", 2.5),
        "comment": Family(
            ("Comment '{text}' on tweet {id}.", "Reply to tweet {id} with '{text}'.", "Write '{text}' under tweet {id}."),
            ("Answer tweet {id}: '{text}'.",),
            ("Comment on tweet {id}.", "Reply to tweet {id}."), "text", 1.5),
        "comment_new": Family(
            ("Comment '{text}' on the tweet that you just posted.", "Add '{text}' as a comment to my new tweet.",
             "Under my newest tweet write '{text}'."),
            ("My own new tweet gets the comment '{text}'.",),
            ("Comment on the tweet that you just posted.",), "text", 2.0),
        "retweet": Family(
            ("Retweet {id}.", "Share tweet {id} again.", "Please retweet number {id}."),
            ("Pass on tweet {id}.",),
            ("Retweet something.", "Please retweet one of the tweets."), "id"),
        "follow": Family(
            ("Follow {user}.", "Start following {user}.", "I want to follow {user}."),
            ("Subscribe to {user}.",),
            ("Follow somebody.",), "user", 1.5),
        "unfollow": Family(
            ("Unfollow {user}.", "Stop following {user}.", "I do not want to follow {user} any more."),
            ("Drop {user} from those I follow.",),
            ("Unfollow somebody.",), "user"),
        "mention": Family(
            ("Mention {user} in tweet {id}.", "Add a mention of {user} to tweet {id}.", "Tweet {id} should mention {user}."),
            ("Point {user} to tweet {id} by a mention.",),
            ("Mention somebody in tweet {id}.",), "user"),
        "read": Family(
            ("Show tweet {id}.", "What does tweet {id} say?", "Read tweet {id} to me."),
            ("Let me see tweet number {id}.",),
            ("Show me a tweet.",), "id"),
        "stats": Family(
            ("Show the statistics of {user}.", "How active is {user}?", "Give me the numbers on {user}."),
            ("What are the figures of {user}?",),
            ("Show the statistics of a user.",), "user", 0.7),
    }

    def __init__(self, draw, names, depth):
        super().__init__(draw, names, depth)
        self.user, self.password = names.user(), names.password()
        self.logged_in = self.ready(0.35)
        first = draw.between(10, 800)
        self.tweets = [first, first + 1, first + 2]
        self.followed = [names.user() for _ in range(2)]
        self.retweeted: set[int] = set()
        self.next_id = first + 3
        self.newest: int | None = None
        self.config = {
            "username": self.user, "password": self.password, "authenticated": self.logged_in, "tweet_counter": self.next_id,
            "tweets": {str(i): {"id": i, "username": names.user(), "content": names.sentence(), "tags": [], "mentions": []}
                       for i in self.tweets},
            "comments": {}, "retweets": {}, "following_list": list(self.followed)}
        self.authors = [tweet["username"] for tweet in self.config["tweets"].values()]

    def _log_in(self) -> tuple[list[Call], str]:
        if self.logged_in:
            return [], ""
        self.logged_in = True
        return ([Call("authenticate_twitter", {"username": self.user, "password": self.password})],
                f"My user name is {self.user} and the password is {self.password}.")

    def _plan(self, family: str, values: dict, own: Call, askable: bool = True):
        log_in, also = self._log_in()
        return self.plan(family, values, [own], log_in, also, askable)

    def post(self):
        values = {"text": self.names.sentence(), "tag": self.names.noun()}
        self.keep("post", values)
        self.newest = self.next_id
        self.next_id += 1
        return self._plan("post", values, Call("post_tweet", {"content": values["text"], "tags": [f"#{values['tag']}"]}))

    def comment(self):
        values = {"text": self.names.sentence(), "id": self.draw.choice(self.tweets)}
        self.keep("comment", values)
        return self._plan("comment", values, Call("comment", {"tweet_id": values["id"], "comment_content": values["text"]}))

    def comment_new(self):
        if self.newest is None:
            raise Again
        values = {"text": self.names.sentence()}
        self.keep("comment_new", values)
        return self._plan("comment_new", values, Call("comment", {"tweet_id": self.newest, "comment_content": values["text"]}))

    def retweet(self):
        left = [i for i in self.tweets if i not in self.retweeted]
        if not left:
            raise Again
        values = {"id": self.draw.choice(left)}
        self.keep("retweet", values)
        self.retweeted.add(values["id"])
        return self._plan("retweet", values, Call("retweet", {"tweet_id": values["id"]}), askable=len(left) > 1)

    def follow(self):
        values = {"user": self.names.user()}
        self.keep("follow", values)
        if values["user"] in self.followed:
            raise Again
        self.followed.append(values["user"])
        return self._plan("follow", values, Call("follow_user", {"username_to_follow": values["user"]}))

    def unfollow(self):
        if not self.followed:
            raise Again
        values = {"user": self.draw.choice(self.followed)}
        self.keep("unfollow", values)
        self.followed.remove(values["user"])
        return self._plan("unfollow", values, Call("unfollow_user", {"username_to_unfollow": values["user"]}),
                          askable=bool(self.followed))

    def mention(self):
        values = {"user": self.names.user(), "id": self.draw.choice(self.tweets)}
        self.keep("mention", values)
        return self.plan("mention", values, [Call("mention", {"tweet_id": values["id"], "mentioned_usernames": [values["user"]]})])

    def read(self):
        values = {"id": self.draw.choice(self.tweets)}
        self.keep("read", values)
        return self.plan("read", values, [Call("get_tweet", {"tweet_id": values["id"]})])

    def stats(self):
        values = {"user": self.draw.choice(self.authors)}
        self.keep("stats", values)
        return self.plan("stats", values, [Call("get_user_stats", {"username": values["user"]})])

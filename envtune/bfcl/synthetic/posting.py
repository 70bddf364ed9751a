"""Posts and followers: TwitterAPI. Prerequisite: being authenticated, for all that writes."""

from envtune.bfcl.synthetic.world import Again, Family, World
from envtune.bfcl.tasks import Call


class Posting(World):
    class_name = "TwitterAPI"
    named = frozenset({"text", "tag", "user"})
    families = {
        "post": Family(
            (
                "Post '{text}' with the tag #{tag}.",
                "Tweet '{text}' and tag it #{tag}.",
                "Publish '{text}' under #{tag}.",
                "I want to post '{text}', tagged #{tag}.",
                "Could you tweet '{text}' under the tag #{tag}?",
                "With the tag #{tag}, publish '{text}'.",
                "Now write a tweet tagged #{tag}: '{text}'.",
            ),
            (
                "Publish a tweet that says '{text}' with the tag #{tag}.",
                "Under #{tag}, I want to post '{text}'.",
            ),
            (
                "Post something with the tag #{tag}.",
                "I want to tweet something under #{tag}.",
                "Could you publish a post tagged #{tag}?",
            ),
            "text",
            2.5,
        ),
        "comment": Family(
            (
                "Comment '{text}' on tweet {id}.",
                "Reply to tweet {id} with '{text}'.",
                "Write '{text}' under tweet {id}.",
                "I want to comment '{text}' on tweet {id}.",
                "Could you answer tweet {id} with '{text}'?",
                "Under tweet {id}, please write '{text}'.",
                "Next, leave the comment '{text}' on tweet {id}.",
                "Tweet number {id} needs a reply: '{text}'.",
            ),
            ("Reply '{text}' to tweet {id}.", "Tweet {id} should get the comment '{text}'."),
            (
                "Comment on tweet {id}.",
                "Reply to tweet {id}.",
                "I want to comment on tweet {id}.",
                "Could you answer tweet {id}?",
            ),
            "text",
            1.5,
        ),
        "comment_new": Family(
            (
                "Comment '{text}' on the tweet that you just posted.",
                "Add '{text}' as a comment to my new tweet.",
                "Under my newest tweet write '{text}'.",
                "I want to comment '{text}' on my newest tweet.",
                "Could you reply to my new tweet with '{text}'?",
                "The tweet that you just posted should get the comment '{text}'.",
                "Next, write '{text}' under the tweet that you just posted.",
            ),
            (
                "Leave '{text}' as a comment under my newest tweet.",
                "Please answer the tweet that you just posted with '{text}'.",
            ),
            (
                "Comment on the tweet that you just posted.",
                "Add a comment to my new tweet.",
                "Could you reply to my newest tweet?",
            ),
            "text",
            2.0,
        ),
        "retweet": Family(
            (
                "Retweet {id}.",
                "Share tweet {id} again.",
                "Please retweet number {id}.",
                "I want to retweet number {id}.",
                "Could you share tweet number {id} again?",
                "Tweet {id} should be retweeted.",
                "Go ahead and retweet {id}.",
            ),
            ("I want tweet {id} to be retweeted.", "Make a retweet of tweet {id}."),
            (
                "Retweet something.",
                "Please retweet one of the tweets.",
                "I want to share one of the tweets again.",
                "Could you retweet a tweet?",
            ),
            "id",
        ),
        "follow": Family(
            (
                "Follow {user}.",
                "Start following {user}.",
                "I want to follow {user}.",
                "Could you follow the user {user}?",
                "Please make me a follower of {user}.",
                "Add {user} to the people I follow.",
                "Now I would like to follow {user}.",
            ),
            ("Put {user} on the list of people I follow.", "From now on, I want to follow {user}."),
            (
                "Follow somebody.",
                "I want to follow a new user.",
                "Add somebody to the people I follow.",
            ),
            "user",
            1.5,
        ),
        "unfollow": Family(
            (
                "Unfollow {user}.",
                "Stop following {user}.",
                "I do not want to follow {user} any more.",
                "Could you unfollow the user {user}?",
                "Remove {user} from the people I follow.",
                "I am tired of {user}, unfollow them.",
                "I no longer want to follow {user}.",
            ),
            ("I would like to stop following {user}.", "Take {user} off the people I follow."),
            (
                "Unfollow somebody.",
                "Remove somebody from the people I follow.",
                "I no longer want to follow one of the users.",
            ),
            "user",
        ),
        "mention": Family(
            (
                "Mention {user} in tweet {id}.",
                "Add a mention of {user} to tweet {id}.",
                "Tweet {id} should mention {user}.",
                "Could you add {user} as a mention in tweet {id}?",
                "I want to mention {user} in tweet number {id}.",
                "In tweet {id}, please mention {user}.",
                "Put a mention of {user} into tweet {id}.",
            ),
            (
                "Tweet number {id} needs a mention of {user}.",
                "I want tweet {id} to mention {user}.",
            ),
            (
                "Mention somebody in tweet {id}.",
                "Add a mention to tweet {id}.",
                "Tweet {id} should mention somebody.",
            ),
            "user",
        ),
        "read": Family(
            (
                "Show tweet {id}.",
                "What does tweet {id} say?",
                "Read tweet {id} to me.",
                "I want to read tweet {id}.",
                "Could you show me tweet number {id}?",
                "Please print the text of tweet {id}.",
                "What is written in tweet {id}?",
            ),
            ("Let me see tweet number {id}.", "Tell me what tweet {id} says."),
            ("Show me a tweet.", "Read one of the tweets to me.", "I want to read a tweet."),
            "id",
        ),
        "stats": Family(
            (
                "Show the statistics of {user}.",
                "How active is {user}?",
                "Give me the numbers on {user}.",
                "I need the statistics of the user {user}.",
                "Could you tell me how active {user} is?",
                "How many followers does {user} have?",
                "Please look up the statistics on {user}.",
            ),
            ("What are the statistics of {user}?", "I want to see how active the user {user} is."),
            (
                "Show the statistics of a user.",
                "How active is one of the users?",
                "Give me the numbers on somebody.",
            ),
            "user",
            0.7,
        ),
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
            "username": self.user,
            "password": self.password,
            "authenticated": self.logged_in,
            "tweet_counter": self.next_id,
            "tweets": {
                str(i): {
                    "id": i,
                    "username": names.user(),
                    "content": names.sentence(),
                    "tags": [],
                    "mentions": [],
                }
                for i in self.tweets
            },
            "comments": {},
            "retweets": {},
            "following_list": list(self.followed),
        }
        self.authors = [tweet["username"] for tweet in self.config["tweets"].values()]

    def _plan(self, family: str, values: dict, own: Call, askable: bool = True):
        log_in, also = self.log_in("authenticate_twitter")
        return self.plan(family, values, [own], log_in, also, askable)

    def post(self):
        values = {"text": self.names.sentence(), "tag": self.names.noun()}
        self.keep("post", values)
        self.newest = self.next_id
        self.next_id += 1
        call = Call("post_tweet", {"content": values["text"], "tags": [f"#{values['tag']}"]})
        return self._plan("post", values, call)

    def comment(self):
        values = {"text": self.names.sentence(), "id": self.draw.choice(self.tweets)}
        self.keep("comment", values)
        call = Call("comment", {"tweet_id": values["id"], "comment_content": values["text"]})
        return self._plan("comment", values, call)

    def comment_new(self):
        if self.newest is None:
            raise Again
        values = self.keep("comment_new", {"text": self.names.sentence()})
        call = Call("comment", {"tweet_id": self.newest, "comment_content": values["text"]})
        return self._plan("comment_new", values, call)

    def retweet(self):
        left = [i for i in self.tweets if i not in self.retweeted]
        values = self.keep("retweet", {"id": self.one_of(left)})
        self.retweeted.add(values["id"])
        call = Call("retweet", {"tweet_id": values["id"]})
        return self._plan("retweet", values, call, askable=len(left) > 1)

    def follow(self):
        values = self.keep("follow", {"user": self.names.user()})
        if values["user"] in self.followed:
            raise Again
        self.followed.append(values["user"])
        call = Call("follow_user", {"username_to_follow": values["user"]})
        return self._plan("follow", values, call)

    def unfollow(self):
        values = self.keep("unfollow", {"user": self.one_of(self.followed)})
        self.followed.remove(values["user"])
        call = Call("unfollow_user", {"username_to_unfollow": values["user"]})
        return self._plan("unfollow", values, call, askable=bool(self.followed))

    def mention(self):
        user, tweet = self.names.user(), self.draw.choice(self.tweets)
        named = {"tweet_id": tweet, "mentioned_usernames": [user]}
        return self.simple("mention", {"user": user, "id": tweet}, "mention", **named)

    def read(self):
        tweet = self.draw.choice(self.tweets)
        return self.simple("read", {"id": tweet}, "get_tweet", tweet_id=tweet)

    def stats(self):
        user = self.draw.choice(self.authors)
        return self.simple("stats", {"user": user}, "get_user_stats", username=user)

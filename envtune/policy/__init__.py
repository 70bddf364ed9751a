"""What acts: a model that samples messages, many episodes at once as token ids, and the models that come with the project. Nothing here
decodes a message and encodes it again, or trains by reward."""

"""A stranger's locustfile: our users, and neither a shape nor a drill."""

from locustfiles.load.users import PublisherUser, SyncUser


class Client(SyncUser):
    """A client."""


class Publisher(PublisherUser):
    """The publisher."""

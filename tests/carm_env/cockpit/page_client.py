"""A page of the cockpit without a screen."""

import json

from carm_env.cockpit.frames import decode_frame

OWN = "http://localhost:8765"


def connect(client, path="socket", **headers):
    """Connects to a socket of a server, as a page of its own would."""
    return client.websocket_connect(f"{OWN.replace('http', 'ws')}/{path}", headers=headers)


class Page:
    """A page without a screen: what it was sent, by type."""

    def __init__(self, socket):
        self.socket = socket
        self.received = []

    def send(self, kind, **fields):
        self.socket.send_json({"type": kind, **fields})

    def next(self, *kinds):
        """Returns the next message of one of the types; frames come as (state, image)."""
        while True:
            message = self.socket.receive()
            if message["type"] == "websocket.close":
                raise AssertionError(f"closed: {message}")
            if message.get("bytes") is not None:
                header, image = decode_frame(message["bytes"])
                self.received.append(json.dumps(header))
                value = {**header, "image": image}
            else:
                self.received.append(message["text"])
                value = json.loads(message["text"])
            if value["type"] in kinds:
                return value
            assert value["type"] != "refused", value["text"]

    def hello(self, session=""):
        self.send("hello", session=session)
        return self.next("welcome")["session"]

    def start(self, **fields):
        self.send("start", **{"patient": "imported:one", "image_size": 64, "target": 11, **fields})
        return self.frame()

    def frame(self):
        return self.next("frame")

    def refusal(self):
        return self.next("refused")

    def settle(self):
        """Waits until everything that was sent has been answered, and the transcript is written."""
        self.send("show")
        self.next("lane")


class DeskPage(Page):
    """A page of annotations or studies; it keeps the last frame of each view."""

    def __init__(self, socket):
        super().__init__(socket)
        self.frames = {}

    def next(self, *kinds):
        while True:
            value = super().next("frame", *kinds)
            if value["type"] == "frame" and "view" in value:
                self.frames[value["view"]] = value
            if value["type"] in kinds:
                return value

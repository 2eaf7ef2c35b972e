"""The cockpit: a web page on which a person drives the C-arm, watches policies, takes over and talks to them.

The server keeps the state of every session and streams X-rays over a WebSocket; the page in ``page/`` is written by
hand in ES modules. `server` needs the extra ``cockpit``; the other modules need no web framework.
"""

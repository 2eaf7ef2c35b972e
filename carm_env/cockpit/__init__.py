"""The cockpit: web pages on which a person drives the C-arm, watches policies, talks to them, annotates and plays studies.

The server keeps the state and streams X-rays over WebSockets; the pages in ``page/`` are written by hand in ES modules.
`server` and `serve` need the extra ``cockpit``; the other modules need no web framework.

| page | modules |
|---|---|
| drive, watch, talk | `drive_socket`, `store`, `session`, `lane`, `steering`: a session stays in memory when its socket drops |
| annotation, study | `desks`, `annotation_desk`, `study_desk`: the state is on the disk, and a page that comes back opens it again |
"""  # noqa: E501

"""The live page of sessions, `starburst dashboard`: reads the store, and shows in a browser what becomes of every task.

    serve.py     the options, the printed URL, the server
    app.py       routes and errors; pages.py, views.py: what each page shows
    safety.py    hosts, origins, token and cookie, the headers of every answer
    hub.py       the sessions that are open here
    watch.py     one session: its poller, its newest snapshot; tabs.py: what a browser's tab gets
    index.py     the facts of each task in columns; query.py: pages of tasks by filter and order
    strips.py    ends and running tasks over time
    sessions.py  a line for each session
    showing.py   calls and results as text; shown.py: the process that unpickles them
    actions.py   retry, cancel, scale, extend

It needs the extra `dashboard`. Source: docs/design/0014-dashboard.md
"""

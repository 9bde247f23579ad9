"""Our part of Locust's web page: a form to start a drill, the tabs Gates and Sync, a page of charts, buttons, downloads."""

// Which versions stand beside this one, the newest first: none in a site that was built by itself. `docs/_versions.py` writes them.
window.siteVersions = [];

"""Local web sites of our own: a shop, a forum and an issue tracker, with tasks, checks and scripted solvers."""

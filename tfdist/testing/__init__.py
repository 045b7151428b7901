"""A pytest plugin for tests that run on several ranks; pytest loads it by itself."""

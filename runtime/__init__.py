"""Runs compiled programs: memory plan, thread team, native driver, object cache, executable."""

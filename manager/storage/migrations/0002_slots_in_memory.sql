-- Who holds a slot is known in memory and read once at the start, by `attempt_one_live`.
DROP INDEX attempt_slots;

-- Whether the gateway of a host ends its agents when the host's lease is over.
ALTER TABLE host ADD COLUMN keeps_leases INTEGER NOT NULL DEFAULT 0;

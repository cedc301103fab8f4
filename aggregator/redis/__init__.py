"""Redis: markers that count each swap once, snapshots, check-ins and saved board rows."""

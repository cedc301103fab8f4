"""What the archive's health page shows: findings about parts, inserts and disks."""

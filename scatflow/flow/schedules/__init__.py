"""Jobs that run on a schedule: cron lines, and the units of cron, systemd, Slurm and Kubernetes."""

"""Random programs of threads, locks, queues, disks and peers with known blame: the wait graph as a specification."""

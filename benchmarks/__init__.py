"""Suites of frozen episodes, a runner, statistics, and the leaderboard made from result files."""

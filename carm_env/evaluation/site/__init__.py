"""The leaderboard as a static web page; `carm_env.evaluation.site.page` writes it."""

"""Where Python code of a user enters: a reward or a rule of their own, named by them and run as it stands."""

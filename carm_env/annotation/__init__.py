"""Landmarks on CTs, placed by people: projections, depth, states, files, progress, export and agreement.

`carm_env.annotation.session.AnnotationSession` is what a page or a script drives. It needs no window and no server.
"""

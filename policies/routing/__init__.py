"""The calibrated router over model cards: one vision-language model finds the specialist for an image, or nobody.

Source: "One VLM, Two Roles: Stage-Wise Routing and Specialty-Level Deployment for Clinical Workflows", section 3.
"""

"""What joins the views to Gradio's components; one file a tab."""

{"type":"subscribed","operations":["friday-42"]}

namespace Native.Tools.DemoModel;

/// <summary>The small world's vocabulary.</summary>
internal static class Words
{
    private static string[] Split(string words) => words.Split([' ', '\n'], StringSplitOptions.RemoveEmptyEntries);
    private static string[] Lines(string phrases) => phrases.Split(['|', '\n'], StringSplitOptions.RemoveEmptyEntries | StringSplitOptions.TrimEntries);

    public static readonly string[] Girls = Split("""
        Mia Anna Lily Emma Sara Nora Lucy Ella Rosa Ruby Clara Julia Hanna Lena Tina Daisy Molly Zoe Ivy Maya Sophie Alice Eva
        Nina Leah Amy Bella Kate Jane Lisa Grace Olivia Flora Greta Wanda Polly Betty Penny Tilly Poppy Hazel Olive Pearl Mary
        """);
    public static readonly string[] Boys = Split("""
        Tom Ben Max Leo Sam Jack Tim Finn Noah Paul Jonas Felix Oscar Peter Daniel Hugo Adam Luke Theo Milo Eric Simon Otto Alex
        David Henry Liam Owen Carl Fred Bruno Rusty Toby Pip Bob Ned Gus Barney Basil Rufus Teddy Walter Oliver John Mark Jim
        """);
    public static readonly string[] Syllables = Split("""
        ba be bi bo da de di do fa fi ga go ka ke ki ko la le li lo ma me mi mo na ne ni no pa pe pi po ra re ri ro sa se si so ta te ti to
        va vi wa ya za zi zo bar dan fen gil han jor kel lum mar nor pel quin ros sil tam ver wil zan thor bel cal dor
        """);
    public static readonly string[] Animals = Split("""
        fox rabbit bear mouse cat dog owl frog duck hedgehog squirrel deer wolf pig goat sheep horse hen crow turtle beaver mole badger
        otter robin goose lamb pony kitten puppy snail bee
        """);
    /// <summary>Heroes met more rarely, so that the model learns to write about what it seldom saw.</summary>
    public static readonly string[] RareHeroes = Split("""
        dragon robot unicorn lion tiger elephant monkey penguin giraffe zebra panda koala kangaroo parrot dolphin whale camel crocodile
        dinosaur giant wizard witch king queen prince princess knight pirate ghost fairy elf dwarf farmer baker fisherman sailor gardener
        painter tailor miller shepherd cook doctor teacher clown snowman swan stork donkey cow rooster raven lizard toad butterfly ladybug
        spider ant bat seal swallow sparrow hamster eagle monster troll mermaid scarecrow astronaut detective
        """);
    public static readonly string[] Colours = Split("red blue green yellow white black brown orange purple pink grey golden silver");
    public static readonly string[] Looks = Split("small big old new shiny little round beautiful wooden tiny pretty bright");
    public static readonly string[] Traits = Split("kind shy brave curious clever cheerful gentle friendly quiet playful careful lively");

    public static readonly string[] Places = Lines("""
        in the forest|in the garden|in the park|in the meadow|on the beach|on the hill|by the lake|by the river|on the farm|at the market
        in the village|near the old bridge|by the pond|in the orchard|in the valley|near the castle|on the island|in the field|near the mill
        behind the school|by the well|in the town square|near the waterfall|at the edge of the woods
        """);
    public static readonly string[] Homes = Lines("""
        in a small house near the river|in a cozy cottage by the woods|in a quiet village|at the edge of a big forest|on a little farm
        in a town by the sea|under an old oak tree|near a blue lake|at the foot of a mountain|in a house with a green door
        beside a long road|in a green valley|on top of a hill|not far from the mill
        """);
    public static readonly string[] Spots = Lines("""
        under a bench|behind a big rock|in the tall grass|under an old tree|between two bushes|inside a hollow log|next to the well
        under a pile of leaves|behind the barn|beside the path|on a low branch|under the bridge|near a mossy stone|behind the fence
        in an empty nest|at the bottom of the stairs|between the roots of an oak|next to a mushroom
        """);
    public static readonly string[] Times = ["morning", "afternoon", "evening"];
    public static readonly string[] Days = Split("Monday Tuesday Wednesday Thursday Friday Saturday Sunday");
    public static readonly string[] Weathers = Split("sunny windy rainy snowy cloudy foggy warm cold");

    public static readonly string[] Light = Split("lantern lamp candle torch");
    public static readonly string[] Sound = Split("drum bell whistle trumpet flute horn");
    public static readonly string[] Warm = Split("blanket scarf coat sweater quilt cloak");
    public static readonly string[] Dry = Split("umbrella tent");
    public static readonly string[] Pull = Split("rope ladder");
    public static readonly string[] Carry = Split("basket bag bucket cart wagon sack");
    public static readonly string[] Play = Split("ball kite balloon doll puppet hoop drum boat top puzzle swing sled scooter");
    public static readonly string[] Read = Split("book map letter");
    public static readonly string[] Treasure = Split("key shell button ring feather stone marble coin ribbon box mirror crown hat cap bow cup pearl");
    public static readonly string[] Rare = Split("""
        clock spoon pillow chair guitar bicycle flower rose star watch pencil broom brush boot glove sock teapot plate bowl jar bottle
        jewel necklace bracelet statue painting violin piano harp pin needle hammer spade shovel rake wheel flag mask telescope magnet rocket
        train car truck camera phone pen pebble leaf acorn egg nest table stool bench ladle pan pot fan comb vase toy sword shield wand
        computer radio piece-of-string treasure present
        """).Select(w => w.Replace('-', ' ')).ToArray();
    public static readonly string[] Things =
        [.. Light, .. Sound, .. Warm, .. Dry, .. Pull, .. Carry, .. Play, .. Read, .. Treasure];
    public static readonly string[] Foods = Split("cake pie apple bun pear carrot sandwich cookie pancake plum muffin peach honey-cake loaf-of-bread")
        .Select(w => w.Replace('-', ' ')).ToArray();

    /// <summary>What one story has and another has not: the words that only its own text can tell.</summary>
    public static readonly HashSet<string> Content =
        [.. Girls, .. Boys, .. Animals, .. RareHeroes, .. Colours, .. Traits, .. Things, .. Rare, .. Foods, .. Times, .. Days, .. Weathers, "girl", "boy", "she", "he", "his", "him", "her"];

    /// <summary>Words of the wide world outside, for requests the model is to decline.</summary>
    public static readonly string[] Foreign = Lines("""
        France|Germany|China|Brazil|Japan|Italy|Spain|Canada|India|Russia|Africa|London|Paris|New York|Berlin|Tokyo|America|Europe|Mexico
        the president|the stock market|quantum physics|the internet|Python|Java|a computer program|the economy|politics|taxes|insurance
        chemistry|algebra|calculus|a nuclear reactor|the Roman Empire|World War Two|Napoleon|Shakespeare|Einstein|Mozart|the Olympics
        football results|bitcoin|a mortgage|machine learning|neural networks|photosynthesis|DNA|gravity|black holes|Mars|Jupiter|electricity
        the heart|medicine|a headache|a visa|a passport|the law|a contract|an engine|a car battery|a washing machine|Linux|Windows|a database
        SQL|JavaScript|HTML|a website|an email|a CV|marketing|inflation|interest rates|climate change|evolution|philosophy|Kant|Plato
        democracy|religion|history|geography|biology|a poem by Goethe|opera|jazz|the Beatles|movies|actors|television|the news|a vaccine
        protein|vitamins|a diet|a marathon|chess openings|poker|basketball|tennis|Microsoft|Google|smartphones|batteries|satellites
        the speed of light|the population of Asia|the moon landing|dark matter|prime numbers|the square root of two|triangles|logarithms
        the French Revolution|the Middle Ages|Caesar|Cleopatra|a recipe for lasagna|sushi|wine|coffee machines|airplanes|trains in Europe|hotels
        """);
}
